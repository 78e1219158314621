"""Dataflow: an ONNX graph in memory, in the form in which it is looked at, rewritten and cut."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError

CONSTANT, SIZE, DATA = 0, 1, 2
"""What a value depends on: nothing, the sizes of inputs, or what they hold."""

DRAWS = ("RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Bernoulli", "Multinomial")
"""Operators that draw numbers; `Dropout` is apart from them."""

_OLDEST_IR = 4  # since then an initializer need not be among the inputs


@dataclass(frozen=True)
class Dataflow:
    """A graph: nodes in the order in which they run.

    Attributes:
        nodes: without those that only hold a constant.
        inputs: what is fed.
        outputs: the names of what comes out.
        weights: initializers and constants.
        frame: the model without its graph: versions of operators and format.
        types: of outputs, where they are known: ONNX element types.
    """

    nodes: tuple[NodeProto, ...]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, TensorProto]
    frame: onnx.ModelProto
    types: Mapping[str, int] | None = None

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((x.version for x in self.frame.opset_import if x.domain in ("", "ai.onnx")), 0)

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that each value comes from; inputs and weights come from none."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """The nodes that take each value."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(sources(node)):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def names(self) -> frozenset[str]:
        """All names of values, those within subgraphs too."""
        found = {*self.weights, *self.outputs, *(value.name for value in self.inputs)}
        for node in every_node(self.nodes):
            found.update(node.input, node.output)
            for graph in subgraphs(node):
                found.update(value.name for value in (*graph.input, *graph.initializer, *graph.output))
        return frozenset(found)


class Names:
    """Gives names to new values that no other value has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str) -> str:
        """`wanted`, with a number where it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def key(node: NodeProto) -> str:
    """What tells a node from the others: the name of the first value that comes out of it."""
    first: str = next(name for name in node.output if name)
    return first


def is_op(node: NodeProto, *types: str) -> bool:
    """Whether a node is one of these standard operators."""
    return node.domain in ("", "ai.onnx") and node.op_type in types


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(x) for x in node.attribute if x.name == name), default)


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds in its attributes."""
    for given in node.attribute:
        if given.type == AttributeProto.GRAPH:
            yield given.g
        yield from given.graphs


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those of the graphs within them."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph.node)


def sources(node: NodeProto) -> list[str]:
    """The values that a node takes, those that its subgraphs take from outside too."""
    found = [name for name in node.input if name]
    for graph in subgraphs(node):
        found += _captured(graph)
    return found


def _captured(graph: onnx.GraphProto) -> list[str]:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    found: list[str] = []
    for node in graph.node:
        found += [name for name in sources(node) if name not in own]
        own.update(node.output)
    return found + [value.name for value in graph.output if value.name not in own]


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node with values called otherwise, in its subgraphs too."""
    copied = NodeProto()
    copied.CopyFrom(node)
    _rename(copied, names)
    return copied


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(node):
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = names.get(value.name, value.name)
        for inner in graph.node:
            _rename(inner, names)


def tensor(name: str, values: Array) -> TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(values), name)


def from_model(model: onnx.ModelProto) -> Dataflow:
    """The graph of a model that has no functions and all its tensors in memory."""
    frame = onnx.ModelProto()
    frame.ir_version = max(model.ir_version, _OLDEST_IR)
    frame.opset_import.extend(model.opset_import)
    weights = {value.name: value for value in model.graph.initializer}
    for sparse in model.graph.sparse_initializer:
        weights[sparse.values.name] = dense(sparse)
    flow = Dataflow(
        tuple(model.graph.node),
        tuple(model.graph.input),
        tuple(value.name for value in model.graph.output),
        weights,
        frame,
    )
    return constants_apart(flow)


def constants_apart(flow: Dataflow) -> Dataflow:
    """The same with constant nodes as weights."""
    weights, nodes = dict(flow.weights), []
    for node in flow.nodes:
        if is_op(node, "Constant"):
            weights[node.output[0]] = _constant(node)
        else:
            nodes.append(node)
    return replace(flow, nodes=tuple(nodes), weights=weights)


def _constant(node: NodeProto) -> TensorProto:
    if len(node.attribute) != 1:
        raise UnsupportedModelError(
            f"{node.output[0]} (Constant) has {len(node.attribute)} attributes; one, the value, is accepted"
        )
    (given,) = node.attribute
    value = helper.get_attribute_value(given)
    if given.name == "value":
        found = TensorProto()
        found.CopyFrom(value)
    elif given.name == "sparse_value":
        found = dense(value)
    else:
        kinds = {"float": np.float32, "int": np.int64, "stri": np.object_}
        kind = next(dtype for start, dtype in kinds.items() if given.name.startswith(f"value_{start}"))
        found = numpy_helper.from_array(np.array(value, kind))
    found.name = node.output[0]
    return found


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    """A sparse tensor with its zeros; its indices are along one dimension, or along each."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    filled = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        filled.reshape(-1)[indices] = values
    else:
        filled[tuple(indices.T)] = values
    return tensor(sparse.values.name, filled)


def pruned(flow: Dataflow) -> Dataflow:
    """Only the nodes and weights that the outputs need; the inputs stay."""
    needed = set(flow.outputs)
    nodes = []
    for node in reversed(flow.nodes):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(sources(node))
    weights = {name: value for name, value in flow.weights.items() if name in needed}
    return replace(flow, nodes=tuple(reversed(nodes)), weights=weights)


def to_model(flow: Dataflow) -> onnx.ModelProto:
    """A model of what the outputs need; it shares nothing with the dataflow."""
    flow = pruned(flow)
    model = onnx.ModelProto()
    model.CopyFrom(flow.frame)
    graph = model.graph
    graph.name = "graph"
    graph.node.extend(flow.nodes)
    graph.input.extend(flow.inputs)
    for name in flow.outputs:
        kind = (flow.types or {}).get(name)
        graph.output.append(helper.make_tensor_value_info(name, kind, None) if kind else ValueInfoProto(name=name))
    for name, value in flow.weights.items():
        graph.initializer.append(value)
        graph.initializer[-1].name = name
    return model


def reached(flow: Dataflow, start: Iterable[str], through: Collection[str] = ()) -> set[str]:
    """The values that depend on what the values `start` hold.

    Args:
        flow: the graph.
        start: names of values.
        through: keys of nodes that nothing goes through: those that look at sizes alone.
    """
    found = set(start)
    for node in flow.nodes:
        if key(node) not in through and found.intersection(sources(node)):
            found.update(name for name in node.output if name)
    return found


def sizes_alone(flow: Dataflow) -> set[str]:
    """The keys of the nodes that look at nothing but the size of what they take."""
    return {key(node) for node in flow.nodes if is_op(node, "Shape", "Size")}


def levels(flow: Dataflow, sized: Collection[str]) -> dict[str, int]:
    """For each value, whether it is CONSTANT, made of SIZE alone, or of DATA; what is drawn counts as DATA.

    Args:
        flow: the graph.
        sized: keys of the nodes that look at sizes alone.
    """
    found = dict.fromkeys(flow.weights, CONSTANT) | {value.name: DATA for value in flow.inputs}
    for node in flow.nodes:
        level = max((found.get(name, DATA) for name in sources(node)), default=CONSTANT)
        if is_op(node, *DRAWS):
            level = DATA
        elif key(node) in sized:
            level = min(level, SIZE)
        found.update((name, level) for name in node.output if name)
    return found


def value_info(name: str, kind: int, shape: Sequence[int | str]) -> ValueInfoProto:
    """An input of an ONNX element type."""
    return helper.make_tensor_value_info(name, kind, shape)
