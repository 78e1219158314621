"""Split: an exported network cut where its masks enter, its two parts written as graphs of their own.

The suffix works on pairs: each (row, pass) is one row of its batch, and `rows` says from which row of the frontier a
pair takes its values.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mcdropout.engine.cutting.cut import Cutting, cut
from mcdropout.engine.cutting.placement import as_it_was, rows_first
from mcdropout.engine.program import FrontierValue, Outline
from mcdropout.engine.pytorch.cut.graph import ExportedGraph
from mcdropout.engine.pytorch.moves import write_moves

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
        named_axes: for each value that crosses, the dimensions that follow the sizes of the inputs: none until somebody
            has looked.
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule
    outline: Outline
    named_axes: tuple[tuple[int, ...], ...]

    @property
    def frontier(self) -> tuple[FrontierValue, ...]:
        """The tensors that cross."""
        return self.outline.frontier


def split(graph_module: fx.GraphModule, inputs: int, *, whole: bool = False, merged: bool = True) -> Split:
    """Cut an exported `f(*inputs, *masks)`.

    Args:
        graph_module: as `export` returns it.
        inputs: how many of its placeholders are inputs; the others are masks.
        whole, merged: as `cut` takes them. Whether the entries of a row that share a dimension with other rows are
            neighbours the shape does not show: that has to be checked.

    Raises:
        CannotSplitError: a size is not made of whole rows.
    """
    graph = ExportedGraph(graph_module, inputs)
    cutting = cut(graph, whole=whole, merged=merged)
    return Split(_prefix(graph, cutting), _suffix(graph, cutting), cutting.outline, ((),) * len(cutting.crossing))


def _prefix(graph: ExportedGraph, cutting: Cutting[fx.Node]) -> fx.GraphModule:
    written = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in cutting.prefix_values or node in graph.inputs:
            copies[node] = written.node_copy(node, copies.__getitem__)
    for node in (node for node in cutting.crossing if node in graph.inputs):
        # A graph whose output is an input itself is no valid ONNX.
        copies[node] = written.call_function(_aten.clone.default, (copies[node],))
    frontier = (write_moves(written, copies[node], rows_first(graph.layout(node))) for node in cutting.crossing)
    written.output(tuple(frontier))
    return fx.GraphModule(graph.module, written)


def _suffix(graph: ExportedGraph, cutting: Cutting[fx.Node]) -> fx.GraphModule:
    written = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    rows = written.placeholder("rows")
    arrived = [written.placeholder(f"frontier_{index}") for index in range(len(cutting.crossing))]
    for index, mask in enumerate(graph.masks):
        copies[mask] = written.placeholder(f"mask_{index}")
    sizes = _Sizes(graph, written, written.call_function(_aten.sym_size.int, (rows, 0)))
    for mask in graph.masks:
        sizes.found(copies[mask], mask.meta["val"].shape, 1)
    for node, place in zip(cutting.crossing, arrived, strict=True):
        copies[node] = place
        layout = graph.layout(node)
        if layout.axis is not None:
            taken = written.call_function(_aten.index_select.default, (place, 0, rows))
            if not layout.merged:
                shape = list(node.meta["val"].shape)
                sizes.found(taken, [shape.pop(layout.axis), *shape], 1)
            copies[node] = write_moves(written, taken, as_it_was(layout))

    def copy(node: fx.Node) -> fx.Node:
        if node in copies:
            return copies[node]
        copied: fx.Node
        if node.target is _aten.sym_size.int:
            copied = sizes.written(node.meta["val"])
        else:
            for source in node.all_input_nodes:
                copy(source)
            copied = written.node_copy(node, copies.__getitem__)
            # Strides may not be those that it was exported with.
            if copied.target in (_aten.view.default, _aten._unsafe_view.default):
                copied.target = _aten.reshape.default
        copies[node] = copied
        return copied

    for operation in cutting.after:
        for node in operation.gives:
            copy(node)
    written.output(tuple(copy(node) for node in graph.outputs))
    written.eliminate_dead_code()
    return fx.GraphModule(graph.module, written)


class _Sizes:
    """Sizes in a suffix: those that were counted in rows are counted in pairs, and named ones are read off what is
    there."""

    def __init__(self, graph: ExportedGraph, written: fx.Graph, pairs: fx.Node) -> None:
        self._graph, self._written = graph, written
        self._places: dict[Any, tuple[fx.Node, int]] = {}  # where a size can be read
        self._symbols: dict[Any, Any] = {graph.row_symbol: pairs}

    def found(self, node: fx.Node, shape: Sequence[Any], first: int) -> None:
        """A tensor is there, of a shape; what its dimensions from `first` on hold can be read off it."""
        for axis, size in enumerate(shape):
            if axis >= first and isinstance(size, torch.SymInt):
                self._places.setdefault(size.node.expr, (node, axis))

    def written(self, size: Any) -> Any:
        """A size, written into the suffix."""
        if not isinstance(size, torch.SymInt):
            return size
        times = self._graph.times_rows(size)
        pairs = self._symbols[self._graph.row_symbol]
        if times is not None:
            return pairs if times == 1 else self._written.call_function(operator.mul, (pairs, times))
        return self._expression(size.node.expr)

    def _expression(self, expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression not in self._symbols and expression in self._places:
            node, axis = self._places[expression]
            self._symbols[expression] = self._written.call_function(_aten.sym_size.int, (node, axis))
        if expression in self._symbols:
            return self._symbols[expression]
        how = _OPERATORS.get(type(expression).__name__)
        if how is None:
            raise CannotSplitError(
                f"the size {expression} is no multiple of the rows, and follows from none behind the cut"
            )
        terms = [self._expression(term) for term in expression.args]
        return functools.reduce(lambda a, b: self._written.call_function(how, (a, b)), terms)


_OPERATORS: dict[str, Any] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
}
