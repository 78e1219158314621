"""Split: a masked graph cut where masks enter, its two parts written as graphs of their own.

The suffix works on pairs: each (row, pass) is one row of its batch, and `rows` says from which row of the frontier a
pair takes its values. What is made of sizes alone is computed again in the suffix, where sizes are counted in pairs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mcdropout.engine.cutting.cut import Cutting, cut
from mcdropout.engine.cutting.graph import Operation
from mcdropout.engine.cutting.layout import Layout
from mcdropout.engine.cutting.placement import as_it_was, rows_first
from mcdropout.engine.onnx.cut.graph import MaskedGraph
from mcdropout.engine.onnx.dataflow import Dataflow, attribute, is_op, pruned, sources, to_model, value_info
from mcdropout.engine.onnx.draft import Draft
from mcdropout.engine.onnx.measuring import Value
from mcdropout.engine.onnx.write import Halves
from mcdropout.engine.program import Outline


class CannotSplitError(Exception):
    """The graph cannot be cut there; the message says why."""


@dataclass(frozen=True)
class Cut:
    """A masked graph, cut in two.

    Attributes:
        prefix: `(*inputs) -> frontier`; None where the frontier is inputs.
        suffix: `(rows, *frontier, *masks) -> outputs`.
        outline: what crosses, and what it costs.
        before: the nodes of the whole graph that run once a row.
        after: those that run once a pair.
    """

    prefix: Dataflow | None
    suffix: Dataflow
    outline: Outline
    before: tuple[NodeProto, ...]
    after: tuple[NodeProto, ...]

    def halves(self) -> Halves:
        """Both as ONNX."""
        names = tuple(value.name for value in self.suffix.inputs)
        prefix_names = tuple(value.name for value in self.prefix.inputs) if self.prefix else ()
        prefix = to_model(self.prefix) if self.prefix else None
        return Halves(prefix, to_model(self.suffix), prefix_names, names, self.outline)


def split(flow: Dataflow, inputs: int, values: Mapping[str, Value], *, whole: bool = False, merged: bool = True) -> Cut:
    """Cut a graph `f(*inputs, *masks)`.

    Args:
        flow: the graph.
        inputs: how many of its inputs are the network's; the others are masks.
        values: what is known of its values.
        whole, merged: as `cut` takes them.

    Raises:
        CannotSplitError: a part needs a size of a value that is not there, and that follows the sizes of the inputs.
    """
    graph = MaskedGraph(flow, inputs, values)
    cutting = cut(graph, whole=whole, merged=merged)
    return Cut(
        _prefix(graph, cutting),
        _suffix(graph, cutting),
        cutting.outline,
        _nodes(flow, cutting.before),
        _nodes(flow, cutting.after),
    )


def _nodes(flow: Dataflow, operations: Sequence[Operation[str]]) -> tuple[NodeProto, ...]:
    return tuple(flow.producers[operation.gives[0]] for operation in operations)


def _prefix(graph: MaskedGraph, cutting: Cutting[str]) -> Dataflow | None:
    if not cutting.outline.has_prefix:
        return None
    draft, values = Draft(graph.flow), graph.values
    nodes = _counted(graph, draft, graph.inputs[0], cutting.masked, there=())
    outputs = [draft.names.fresh(f"frontier_{index}") for index in range(len(cutting.crossing))]
    for name, output in zip(cutting.crossing, outputs, strict=True):
        moved, last = draft.moved(name, rows_first(graph.layout(name)))
        nodes += [*moved, helper.make_node("Identity", [last], [output])]
    types = {output: values[name].type for name, output in zip(cutting.crossing, outputs, strict=True)}
    return _complete(
        replace(
            graph.flow,
            nodes=tuple(nodes),
            inputs=graph.flow.inputs[: len(graph.inputs)],
            outputs=tuple(outputs),
            weights=draft.weights,
            types=types,
        )
    )


def _complete(flow: Dataflow) -> Dataflow:
    """A part of a graph without what it does not need; raises where it lacks what it needs."""
    part = pruned(flow)
    there = {*part.weights, *(value.name for value in part.inputs), *part.producers, ""}
    for node in part.nodes:
        if missing := [name for name in sources(node) if name not in there]:
            raise CannotSplitError(f"the size of {missing[0]} follows the sizes of the inputs, and is not there")
    return part


def _suffix(graph: MaskedGraph, cutting: Cutting[str]) -> Dataflow:
    draft, flow, values = Draft(graph.flow), graph.flow, graph.values
    rows = draft.names.fresh("rows")
    inputs = [value_info(rows, TensorProto.INT64, ["pairs"])]
    nodes: list[NodeProto] = []
    for index, (name, crosses) in enumerate(zip(cutting.crossing, cutting.outline.frontier, strict=True)):
        place = draft.names.fresh(f"frontier_{index}")
        inputs.append(
            value_info(place, values[name].type, [*(["rows"] if crosses.per_row else []), *_named(values[name], place)])
        )
        if crosses.per_row:
            taken = draft.names.fresh(f"{place}_gather")
            nodes.append(helper.make_node("Gather", [place, rows], [taken], axis=0))
            place = taken
        moved, last = draft.moved(place, as_it_was(graph.layout(name)))
        nodes += [*moved, helper.make_node("Identity", [last], [name])]
    arrived = {name for node in nodes for name in node.output}
    there = {*arrived, *graph.masks, *(name for operation in cutting.after for name in operation.gives)}
    nodes += [node for node in _counted(graph, draft, rows, values, there) if not arrived.intersection(node.output)]
    types = {name: values[name].type for name in flow.outputs if name in values}
    masks = flow.inputs[len(graph.inputs) :]
    return _complete(replace(flow, nodes=tuple(nodes), inputs=(*inputs, *masks), weights=draft.weights, types=types))


def _named(value: Value, place: str) -> list[int | str]:
    """The sizes of a row of a value that crosses, with names of its own for those that differ."""
    return [f"{place}_{size}" if isinstance(size, str) else size for size in value.row_sizes]


def _counted(
    graph: MaskedGraph, draft: Draft, counter: str, of: Collection[str], there: Collection[str]
) -> list[NodeProto]:
    """The nodes, with the sizes of the values `of` counted in the entries of the value `counter`.

    What follows the sizes of the inputs is read off the values that are `there`, and left out of others.
    """
    count, zero = draft.names.fresh("count"), draft.whole_numbers([0])
    shape = draft.names.fresh("count_shape")
    nodes = [helper.make_node("Shape", [counter], [shape]), helper.make_node("Gather", [shape, zero], [count])]
    for node, operation in zip(graph.flow.nodes, graph.operations, strict=True):
        if operation.sized and node.input[0] in of and graph.values[node.input[0]].varying:
            nodes += [node] if node.input[0] in there else []
        elif operation.sized and node.input[0] in of:
            nodes += _size(draft, node, graph.layout(node.input[0]), count)
        else:
            nodes.append(node)
    return nodes


def _size(draft: Draft, node: NodeProto, layout: Layout, count: str) -> list[NodeProto]:
    """The size of a value, made of the number of rows `count`, `[1]`, instead of the value."""
    sizes = [layout.times if axis == layout.axis else size for axis, size in enumerate(layout.shape)]
    output = node.output[0]
    if is_op(node, "Size"):
        total = draft.whole_numbers(int(np.prod(sizes)))
        if layout.axis is None:
            return [helper.make_node("Identity", [total], [output])]
        scalar = draft.names.fresh(f"{output}_count")
        return [
            helper.make_node("Reshape", [count, draft.whole_numbers([])], [scalar]),
            helper.make_node("Mul", [scalar, total], [output]),
        ]
    part = slice(attribute(node, "start", 0), attribute(node, "end", None))
    asked = range(len(sizes))[part]
    if layout.axis not in asked:
        return [helper.make_node("Identity", [draft.whole_numbers(sizes[part])], [output])]
    rows = draft.names.fresh(f"{output}_rows")
    nodes = [helper.make_node("Mul", [count, draft.whole_numbers([layout.times])], [rows])]
    parts = [rows if axis == layout.axis else draft.whole_numbers([sizes[axis]]) for axis in asked]
    return [*nodes, helper.make_node("Concat", parts, [output], axis=0)]
