"""Export and split: a network as an exported function `f(x, masks)`, cut where masks enter.

`torch.export` gives one graph with the masks among its inputs. What depends on a mask is the suffix; what does not is
the prefix, computed once a row; the tensors that cross are the frontier. The suffix works on pairs: each (row, pass) is
one row of its batch, and `rows` says from which row of the frontier a pair takes its values. Whatever dimension holds
the rows inside the network, in the frontier it is the first.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from mcdropout.engine.arrays import with_rows
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.program import FrontierValue, Outline
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.subject import EXAMPLE_ROWS

EXAMPLE_PAIRS = 5
"""How many pairs an exported suffix is exported with; not as many as there are rows, so that the two differ."""

_aten = torch.ops.aten


class CannotSplitError(Exception):
    """The graph cannot be cut where its masks enter; the message says why."""


@dataclass(frozen=True)
class Split:
    """A network cut where its masks enter.

    Attributes:
        prefix: `(*inputs) -> frontier`; each frontier value `[rows, ...]`.
        suffix: `(rows, *frontier, *masks) -> outputs`; `rows` is `[pairs]` int64, outputs are `[pairs, ...]`.
        outline: what crosses, and what it costs.
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule
    outline: Outline

    @property
    def frontier(self) -> tuple[FrontierValue, ...]:
        """The tensors that cross."""
        return self.outline.frontier


class _Masked(nn.Module):
    """`f(*inputs, *masks)` as a module, the form that `torch.export` takes."""

    def __init__(self, network: Network, inputs: int) -> None:
        super().__init__()
        self.module = network.module
        self._run: Callable[..., Any] = network.run
        self._inputs = inputs

    def forward(self, *arguments: Tensor) -> Any:
        return self._run(arguments[: self._inputs], arguments[self._inputs :])


def example_masks(source: MaskSource, rows: int) -> tuple[Tensor, ...]:
    """Masks that keep everything, for `rows` rows, as tensors."""
    return tuple(torch.from_numpy(mask) for mask in source.keep_everything(rows))


def export(network: Network, inputs: tuple[Tensor, ...], source: MaskSource) -> fx.GraphModule:
    """The graph of `f(*inputs, *masks)`, free of in-place operations, with any number of rows.

    Raises whatever `torch.export` raises for a module that it cannot follow.
    """
    examples = tuple(with_rows(x, EXAMPLE_ROWS) for x in inputs)
    arguments = (*examples, *example_masks(source, EXAMPLE_ROWS))
    rows = torch.export.Dim("rows")
    row_first = [True] * len(inputs) + [site.scope == "row" for site in network.sites]
    shapes = tuple({0: rows} if first else None for first in row_first)
    masked = _Masked(network, len(inputs))
    masked.training = False  # not `eval()`, which would reach the modules whose dropout calls are gone in eval mode
    with torch.no_grad(), quiet():
        program = torch.export.export(masked, arguments, dynamic_shapes=(shapes,), strict=False)
        module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def split(graph_module: fx.GraphModule, inputs: int, *, whole: bool = False, merged: bool = True) -> Split:
    """Cut an exported `f(*inputs, *masks)`.

    A value that cannot cross, because its dimensions do not tell its rows apart, is computed in the suffix instead.

    Args:
        graph_module: as `export` returns it.
        inputs: how many of its placeholders are inputs; the others are masks.
        whole: cut at the inputs instead, so that the suffix holds everything.
        merged: whether values may cross in which a row is several neighbouring entries of a dimension. Whether they
            are neighbours the shape does not tell: that has to be checked.

    Raises:
        CannotSplitError: a size is not made of whole rows.
    """
    return _Splitter(graph_module, inputs, whole, merged).split()


@dataclass(frozen=True)
class _Layout:
    """Where a value has its rows: `times` entries each along `axis`."""

    axis: int
    times: int


class _Splitter:
    def __init__(self, graph_module: fx.GraphModule, inputs: int, whole: bool, merged: bool) -> None:
        self._root = graph_module
        self._merged = merged
        self._nodes = list(graph_module.graph.nodes)
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self._inputs, self._masks = placeholders[:inputs], placeholders[inputs:]
        self._row_symbol = self._inputs[0].meta["val"].shape[0].node.expr
        self._outputs: list[Any] = [
            out for out in torch.utils._pytree.tree_leaves(self._nodes[-1].args[0]) if isinstance(out, fx.Node)
        ]
        # Values of sizes or parameters alone are computed again in the suffix: they cost nothing, or are folded.
        self._from_input = self._reached_by(self._inputs)
        self._in_suffix = self._reached_by(self._masks)
        if whole:
            self._in_suffix |= self._from_input - set(self._inputs)

    def _reached_by(self, start: list[fx.Node]) -> set[fx.Node]:
        reached = set(start)
        for node in self._nodes:
            is_size = not isinstance(node.meta.get("val"), Tensor | tuple | list)
            if node.op == "call_function" and not is_size and reached & set(node.all_input_nodes):
                reached.add(node)
        return reached

    def split(self) -> Split:
        while stuck := [node for node in self._crossing() if not self._can_cross(node)]:
            self._in_suffix |= set(stuck)
        crossing = self._crossing()
        computed = [node for node in self._nodes if node.op == "call_function"]
        suffix_nodes = [node for node in computed if node in self._in_suffix]
        return Split(
            prefix=self._prefix(crossing),
            suffix=self._suffix(crossing),
            outline=Outline(
                frontier=tuple(map(self._frontier_value, crossing)),
                prefix_operations=len(self._ancestors(crossing) & (self._from_input - set(self._inputs))),
                suffix_operations=len(suffix_nodes),
                suffix_bytes=sum(map(self._bytes_per_row, [*crossing, *suffix_nodes])),
            ),
        )

    def _crossing(self) -> list[fx.Node]:
        """The values that the suffix takes from the prefix."""
        crossing: list[fx.Node] = []
        for node in self._nodes:
            used = node in self._outputs or any(user in self._in_suffix for user in node.users)
            if used and node in self._from_input and node not in self._in_suffix:
                crossing.append(node)
        return crossing

    def _bytes_per_row(self, node: fx.Node) -> int:
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not isinstance(elements := value.numel(), torch.SymInt):
            return 0
        count = elements.node.expr
        return int(count.subs(dict.fromkeys(count.free_symbols, 1))) * value.element_size()

    def _can_cross(self, node: fx.Node) -> bool:
        if node in self._inputs:
            return True
        if self._ancestors([node]) & set(self._masks):  # the size of a masked value is no reason to wait for the mask
            return False
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return False
        if not any(isinstance(size, torch.SymInt) for size in value.shape):
            return True
        layout = self._layout(node)
        return layout is not None and (layout.times == 1 or self._merged)

    def _layout(self, node: fx.Node) -> _Layout | None:
        """Where a value has its rows; None where not in one dimension, as a multiple of their number."""
        shape = node.meta["val"].shape
        symbolic = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
        if len(symbolic) != 1:
            return None
        times = shape[symbolic[0]].node.expr / self._row_symbol
        return _Layout(symbolic[0], int(times)) if times.is_Integer else None

    def _frontier_value(self, node: fx.Node) -> FrontierValue:
        shape = node.meta["val"].shape
        index = self._inputs.index(node) if node in self._inputs else None
        layout = self._layout(node)
        if layout is None:
            return FrontierValue(tuple(shape), False, index)
        merged = layout.times > 1
        rest = (*shape[: layout.axis], *shape[layout.axis + 1 :])
        return FrontierValue((layout.times, *rest) if merged else rest, True, index, merged)

    def _rows_first(self, graph: fx.Graph, value: fx.Node, node: fx.Node) -> fx.Node:
        """Bring the rows of a value that crosses into its first dimension."""
        layout = self._layout(node)
        if layout is None:
            return value
        shape = node.meta["val"].shape
        if layout.axis:
            others = [axis for axis in range(len(shape)) if axis != layout.axis]
            value = graph.call_function(_aten.permute.default, (value, [layout.axis, *others]))
        if layout.times > 1:
            rest = [*shape[: layout.axis], *shape[layout.axis + 1 :]]
            value = graph.call_function(_aten.reshape.default, (value, [-1, layout.times, *rest]))
        return value

    def _as_it_was(self, graph: fx.Graph, value: fx.Node, node: fx.Node) -> fx.Node:
        """The reverse of `_rows_first`."""
        layout = self._layout(node)
        if layout is None:
            return value
        shape = node.meta["val"].shape
        if layout.times > 1:
            rest = [*shape[: layout.axis], *shape[layout.axis + 1 :]]
            value = graph.call_function(_aten.reshape.default, (value, [-1, *rest]))
        if layout.axis:
            order = [*range(1, layout.axis + 1), 0, *range(layout.axis + 1, len(shape))]
            value = graph.call_function(_aten.permute.default, (value, order))
        return value

    def _ancestors(self, nodes: list[fx.Node]) -> set[fx.Node]:
        found: set[fx.Node] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += node.all_input_nodes
        return found

    def _prefix(self, crossing: list[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        needed = self._ancestors(crossing) | set(self._inputs)
        for node in self._nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        for node in (node for node in crossing if node in self._inputs):
            # A graph whose output is an input itself is no valid ONNX.
            copies[node] = graph.call_function(_aten.clone.default, (copies[node],))
        graph.output(tuple(self._rows_first(graph, copies[node], node) for node in crossing))
        return fx.GraphModule(self._root, graph)

    def _suffix(self, crossing: list[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        rows = graph.placeholder("rows")
        arrived = [graph.placeholder(f"frontier_{index}") for index in range(len(crossing))]
        for index, mask in enumerate(self._masks):
            copies[mask] = graph.placeholder(f"mask_{index}")
        pairs = graph.call_function(_aten.sym_size.int, (rows, 0))
        for node, place in zip(crossing, arrived, strict=True):
            copies[node] = place
            if self._layout(node) is not None:
                taken = graph.call_function(_aten.index_select.default, (place, 0, rows))
                copies[node] = self._as_it_was(graph, taken, node)

        def copy(node: fx.Node) -> fx.Node:
            if node in copies:
                return copies[node]
            copied: fx.Node
            if node.target is _aten.sym_size.int:
                copied = self._size(graph, node, pairs)
            else:
                for source in node.all_input_nodes:
                    copy(source)
                copied = graph.node_copy(node, copies.__getitem__)
                # Strides may not be those that it was exported with.
                if copied.target in (_aten.view.default, _aten._unsafe_view.default):
                    copied.target = _aten.reshape.default
            copies[node] = copied
            return copied

        for node in self._nodes:
            if node in self._in_suffix:
                copy(node)
        graph.output(tuple(copy(node) for node in self._outputs))
        graph.eliminate_dead_code()
        return fx.GraphModule(self._root, graph)

    def _size(self, graph: fx.Graph, node: fx.Node, pairs: fx.Node) -> Any:
        """A size that was counted in rows, counted in pairs."""
        times = node.meta["val"].node.expr / self._row_symbol
        if not times.is_Integer:
            raise CannotSplitError(f"the size {node.meta['val']} is no multiple of the rows")
        return pairs if times == 1 else graph.call_function(operator.mul, (pairs, int(times)))
