"""Split: an exported network cut where its masks enter, its two parts written as graphs of their own.

The suffix works on pairs: each (row, pass) is one row of its batch, and `rows` says from which row of the frontier a
pair takes its values.
"""

import operator
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
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule
    outline: Outline

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
    return Split(_prefix(graph, cutting), _suffix(graph, cutting), cutting.outline)


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
    pairs = written.call_function(_aten.sym_size.int, (rows, 0))
    for node, place in zip(cutting.crossing, arrived, strict=True):
        copies[node] = place
        layout = graph.layout(node)
        if layout.axis is not None:
            taken = written.call_function(_aten.index_select.default, (place, 0, rows))
            copies[node] = write_moves(written, taken, as_it_was(layout))

    def copy(node: fx.Node) -> fx.Node:
        if node in copies:
            return copies[node]
        copied: fx.Node
        if node.target is _aten.sym_size.int:
            copied = _size(graph, node, written, pairs)
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


def _size(graph: ExportedGraph, node: fx.Node, written: fx.Graph, pairs: fx.Node) -> Any:
    """A size that was counted in rows, counted in pairs."""
    times = graph.times_rows(node.meta["val"])
    if times is None:
        raise CannotSplitError(f"the size {node.meta['val']} is no multiple of the rows")
    return pairs if times == 1 else written.call_function(operator.mul, (pairs, times))
