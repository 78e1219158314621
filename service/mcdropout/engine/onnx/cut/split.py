"""Split: a masked graph cut where masks enter.

What depends on a mask is the suffix; what does not is the prefix, computed once a row; the tensors that cross are the
frontier. The suffix works on pairs: each (row, pass) is one row of its batch, and `rows` says from which row of the
frontier a pair takes its values. Whatever dimension holds the rows inside the graph, in the frontier it is the first.
What is made of sizes alone is computed again in the suffix, where sizes are counted in pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from mcdropout.engine.onnx.dataflow import (
    DATA,
    Dataflow,
    Names,
    attribute,
    is_op,
    key,
    levels,
    pruned,
    reached,
    sources,
    tensor,
    to_model,
    value_info,
)
from mcdropout.engine.onnx.measuring import Value
from mcdropout.engine.onnx.write import Halves
from mcdropout.engine.program import FrontierValue, Outline

# What arrays hold, so that it can be handed from a prefix to a suffix.
_CROSSING_TYPES = frozenset(
    TensorProto.DataType.Value(name)
    for name in (
        *("FLOAT", "DOUBLE", "FLOAT16", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)


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

    A value that cannot cross, because its dimensions do not tell its rows apart, is computed in the suffix instead.

    Args:
        flow: the graph.
        inputs: how many of its inputs are the network's; the others are masks.
        values: what is known of its values.
        whole: cut at the inputs instead, so that the suffix holds everything.
        merged: whether values may cross in which a row is several entries of a dimension.
    """
    return _Splitter(flow, inputs, values, whole, merged).cut()


class _Splitter:
    def __init__(self, flow: Dataflow, inputs: int, values: Mapping[str, Value], whole: bool, merged: bool) -> None:
        self._flow, self._values, self._merged = flow, values, merged
        self._inputs = [value.name for value in flow.inputs[:inputs]]
        self._masks = flow.inputs[inputs:]
        # Nodes that look at a size which follows from the number of rows, so that nobody has to wait for the value.
        self._sized = {
            key(node)
            for node in flow.nodes
            if is_op(node, "Shape", "Size") and node.input[0] in values and values[node.input[0]].known
        }
        level = levels(flow, self._sized)
        self._from_input = {name for name, found in level.items() if found == DATA}
        self._masked = reached(flow, [mask.name for mask in self._masks], self._sized)
        self._in_suffix = set(self._masked)
        if whole:
            self._in_suffix |= self._from_input - set(self._inputs)

    def cut(self) -> Cut:
        while stuck := [name for name in self._crossing() if not self._can_cross(name)]:
            for name in stuck:
                self._in_suffix.update(self._flow.producers[name].output)
        crossing = self._crossing()
        prefix, suffix = self._prefix(crossing), self._suffix(crossing)
        needed = set() if prefix is None else {key(node) for node in pruned(prefix).nodes}
        before = [x for x in self._flow.nodes if key(x) in needed and self._from_input.intersection(x.output)]
        after = [x for x in self._flow.nodes if self._in_suffix.intersection(x.output)]
        taken = [*crossing, *(name for node in after for name in node.output)]
        outline = Outline(
            frontier=tuple(map(self._frontier_value, crossing)),
            prefix_operations=len(before),
            suffix_operations=len(after),
            suffix_bytes=sum(self._values[name].row_bytes for name in taken if name in self._values),
        )
        return Cut(prefix, suffix, outline, tuple(before), tuple(after))

    def _crossing(self) -> list[str]:
        """The values that the suffix takes from the prefix, in the order in which they are made."""
        made = [*self._inputs, *(name for node in self._flow.nodes for name in node.output if name)]
        used = set(self._flow.outputs)
        for node in self._flow.nodes:
            if self._in_suffix.intersection(node.output) and key(node) not in self._sized:
                used.update(sources(node))
        return [x for x in made if x in used and x in self._from_input and x not in self._in_suffix]

    def _can_cross(self, name: str) -> bool:
        if name in self._inputs:
            return True
        value = self._values.get(name)
        if value is None or not value.known or value.type not in _CROSSING_TYPES:
            return False
        return value.times == 1 or (value.apart and self._merged)

    def _frontier_value(self, name: str) -> FrontierValue:
        value = self._values[name]
        index = self._inputs.index(name) if name in self._inputs else None
        if value.axis is None:
            return FrontierValue(value.shape, False, index)
        merged = value.times > 1
        return FrontierValue((value.times, *value.rest) if merged else value.rest, True, index, merged)

    def _prefix(self, crossing: list[str]) -> Dataflow | None:
        if all(name in self._inputs for name in crossing):
            return None
        half = _Half(self._flow, self._values)
        nodes = self._counted(half, self._inputs[0], {name for name in self._masked if name in self._values})
        outputs = [half.names.fresh(f"frontier_{index}") for index in range(len(crossing))]
        for name, output in zip(crossing, outputs, strict=True):
            nodes += half.rows_first(name, output)
        types = {output: self._values[name].type for name, output in zip(crossing, outputs, strict=True)}
        inputs = self._flow.inputs[: len(self._inputs)]
        return pruned(half.flow(nodes, inputs, tuple(outputs), types))

    def _suffix(self, crossing: list[str]) -> Dataflow:
        half = _Half(self._flow, self._values)
        rows = half.names.fresh("rows")
        inputs = [value_info(rows, TensorProto.INT64, ["pairs"])]
        nodes: list[NodeProto] = []
        for index, name in enumerate(crossing):
            place, value = half.names.fresh(f"frontier_{index}"), self._values[name]
            shape = self._frontier_value(name).shape
            inputs.append(value_info(place, value.type, [*(["rows"] if value.axis is not None else []), *shape]))
            nodes += half.taken(place, rows, name)
        arrived = {name for node in nodes for name in node.output}
        counted = self._counted(half, rows, set(self._values), before=nodes)
        nodes += [node for node in counted if not arrived.intersection(node.output)]
        types = {name: self._values[name].type for name in self._flow.outputs if name in self._values}
        return pruned(half.flow(nodes, (*inputs, *self._masks), self._flow.outputs, types))

    def _counted(
        self, half: "_Half", counter: str, of: set[str], before: list[NodeProto] | None = None
    ) -> list[NodeProto]:
        """The nodes, with the sizes of the values `of` counted in the entries of the value `counter`."""
        count, zero = half.names.fresh("count"), half.constant([0])
        shape = half.names.fresh("count_shape")
        nodes = [helper.make_node("Shape", [counter], [shape]), helper.make_node("Gather", [shape, zero], [count])]
        for node in self._flow.nodes:
            if key(node) in self._sized and node.input[0] in of:
                nodes += half.size(node, self._values[node.input[0]], count)
            else:
                nodes.append(node)
        return nodes


class _Half:
    """A half of a graph that is being made: names for what is new in it, and weights."""

    def __init__(self, flow: Dataflow, values: Mapping[str, Value]) -> None:
        self._flow, self._values = flow, values
        self.names = Names(flow.names)
        self._weights = dict(flow.weights)

    def flow(
        self,
        nodes: list[NodeProto],
        inputs: tuple[ValueInfoProto, ...],
        outputs: tuple[str, ...],
        types: dict[str, int],
    ) -> Dataflow:
        return replace(
            self._flow, nodes=tuple(nodes), inputs=inputs, outputs=outputs, weights=self._weights, types=types
        )

    def constant(self, values: int | list[int]) -> str:
        name = self.names.fresh("sizes")
        self._weights[name] = tensor(name, np.array(values, np.int64))
        return name

    def rows_first(self, name: str, output: str) -> list[NodeProto]:
        """Bring the rows of a value that crosses into its first dimension."""
        value, steps = self._values[name], _Steps(self, name)
        if value.axis:
            others = [axis for axis in range(len(value.shape)) if axis != value.axis]
            steps.then("Transpose", perm=[value.axis, *others])
        if value.times > 1 and value.interleaved:
            steps.then("Reshape", self.constant([value.times, -1, *value.rest]))
            steps.then("Transpose", perm=[1, 0, *range(2, 2 + len(value.rest))])
        elif value.times > 1:
            steps.then("Reshape", self.constant([-1, value.times, *value.rest]))
        return steps.ending(output)

    def taken(self, place: str, rows: str, name: str) -> list[NodeProto]:
        """Take the row of each pair from a frontier value, and bring it into the form that it has in the graph."""
        value, steps = self._values[name], _Steps(self, place)
        if value.axis is not None:
            steps.then("Gather", rows, axis=0)
            if value.times > 1 and value.interleaved:
                steps.then("Transpose", perm=[1, 0, *range(2, 2 + len(value.rest))])
            if value.times > 1:
                steps.then("Reshape", self.constant([-1, *value.rest]))
            if value.axis:
                order = range(1, len(value.shape))
                steps.then("Transpose", perm=[*order[: value.axis], 0, *order[value.axis :]])
        return steps.ending(name)

    def size(self, node: NodeProto, value: Value, count: str) -> list[NodeProto]:
        """The size of a value, made of the number of rows `count`, `[1]`, instead of the value."""
        sizes: list[int] = [*value.shape]
        if value.axis is not None:
            sizes[value.axis] = value.times
        output = node.output[0]
        if is_op(node, "Size"):
            total = self.constant(int(np.prod(sizes)))
            if value.axis is None:
                return [helper.make_node("Identity", [total], [output])]
            scalar = self.names.fresh(f"{output}_count")
            return [
                helper.make_node("Reshape", [count, self.constant([])], [scalar]),
                helper.make_node("Mul", [scalar, total], [output]),
            ]
        part = slice(attribute(node, "start", 0), attribute(node, "end", None))
        asked = range(len(sizes))[part]
        if value.axis not in asked:
            return [helper.make_node("Identity", [self.constant(sizes[part])], [output])]
        rows = self.names.fresh(f"{output}_rows")
        nodes = [helper.make_node("Mul", [count, self.constant([value.times])], [rows])]
        parts = [rows if axis == value.axis else self.constant([sizes[axis]]) for axis in asked]
        return [*nodes, helper.make_node("Concat", parts, [output], axis=0)]


class _Steps:
    """Nodes one after another."""

    def __init__(self, half: _Half, name: str) -> None:
        self._half, self._name, self._nodes = half, name, list[NodeProto]()

    def then(self, operator: str, *inputs: str, **attributes: Any) -> None:
        new = self._half.names.fresh(f"{self._name}_{operator.lower()}")
        self._nodes.append(helper.make_node(operator, [self._name, *inputs], [new], **attributes))
        self._name = new

    def ending(self, output: str) -> list[NodeProto]:
        return [*self._nodes, helper.make_node("Identity", [self._name], [output])]
