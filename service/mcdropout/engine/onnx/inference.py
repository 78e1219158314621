"""Inference: a graph without what only training does, apart from its dropout."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.onnx.dataflow import (
    Dataflow,
    Names,
    attribute,
    every_node,
    is_op,
    key,
    renamed,
    sources,
    subgraphs,
    tensor,
)

_MODE_SINCE = 14  # the opset from which batch normalization has the attribute `training_mode`
RATIO_IS_INPUT_SINCE = 12
"""The opset from which `Dropout` takes its ratio as an input."""
BOOL_MASK_SINCE = 10
"""The opset from which the second output of `Dropout` is of truth values."""
FILLED_SINCE = 9
"""The opset of ConstantOfShape."""


def batch_norm_in_inference(flow: Dataflow) -> tuple[Dataflow, tuple[str, ...]]:
    """The graph with its batch normalization in inference form, and the names of the nodes that were not.

    Raises:
        UnsupportedModelError: the statistics of a batch are used for something else.
    """
    used = {name for node in every_node(flow.nodes) for name in sources(node)} | set(flow.outputs)
    changed: list[str] = []
    nodes = []
    for node in flow.nodes:
        if not is_op(node, "BatchNormalization") or not _trains(node, flow.opset):
            nodes.append(node)
            continue
        if taken := [name for name in node.output[1:] if name in used]:
            raise UnsupportedModelError(
                f"{label(node)} (BatchNormalization in training form) hands on the statistics of the batch as "
                f"{taken[0]!r}; a model exported in inference mode, with only its dropout in train mode, is accepted"
            )
        still = renamed(node, {})
        del still.output[1:]
        kept = [x for x in node.attribute if x.name != "training_mode"]
        del still.attribute[:]
        still.attribute.extend(kept)
        nodes.append(still)
        changed.append(label(node))
    return replace(flow, nodes=tuple(nodes)), tuple(changed)


def _trains(node: NodeProto, opset: int) -> bool:
    if opset < _MODE_SINCE:
        return any(node.output[1:])
    return bool(attribute(node, "training_mode", 0))


def modes_apart(flow: Dataflow) -> Dataflow:
    """The graph whose `Dropout` nodes take no mode, without the inputs that gave it."""
    modes: set[str] = set()
    nodes = []
    for node in flow.nodes:
        if is_op(node, "Dropout") and len(node.input) > 2:
            modes.add(node.input[2])
            node = renamed(node, {})
            del node.input[2:]
        nodes.append(node)
    used = {name for node in nodes for name in sources(node)} | set(flow.outputs)
    inputs = tuple(value for value in flow.inputs if value.name not in modes - used)
    return replace(flow, nodes=tuple(nodes), inputs=inputs)


def label(node: NodeProto) -> str:
    """How a node is called: by its name, or by its first output where it has none."""
    return node.name or key(node)


def silenced(flow: Dataflow, *, within: bool = False) -> Dataflow:
    """The graph with every `Dropout`, those within subgraphs too, handing on what it is given.

    Args:
        flow: the graph.
        within: whether only those within subgraphs are to do so.
    """
    names = Names(flow.names)
    nodes: list[NodeProto] = []
    for node in flow.nodes:
        nodes += [node] if within and is_op(node, "Dropout") else _silenced(node, flow, names)
    return replace(flow, nodes=tuple(nodes))


def _silenced(node: NodeProto, flow: Dataflow, names: Names) -> Iterator[NodeProto]:
    if is_op(node, "Dropout"):
        yield from identity(node, flow, names)
        return
    if not any(is_op(inner, "Dropout") for inner in every_node([node])):
        yield node
        return
    copied = renamed(node, {})
    for graph in subgraphs(copied):
        inner = [quiet for old in graph.node for quiet in _silenced(old, flow, names)]
        del graph.node[:]
        graph.node.extend(inner)
    yield copied


def identity(node: NodeProto, flow: Dataflow, names: Names) -> Iterator[NodeProto]:
    """What takes the place of a `Dropout` that is off."""
    data = node.input[0]
    if node.output[0]:
        yield helper.make_node("Identity", [data], [node.output[0]], node.name)
    if len(node.output) < 2 or not node.output[1]:
        return
    if flow.opset < FILLED_SINCE:
        nothing = names.fresh("nothing")
        yield helper.make_node("Sub", [data, data], [nothing])
        yield helper.make_node("Exp", [nothing], [node.output[1]])
        return
    yield from filled(data, node.output[1], np.array([flow.opset >= BOOL_MASK_SINCE or 1.0]), names)


def filled(like: str, output: str, value: Array, names: Names) -> Iterator[NodeProto]:
    """Nodes for a tensor of the shape of another, all of whose entries are `value`, `[1]`."""
    shape = names.fresh(f"{output}_shape")
    yield helper.make_node("Shape", [like], [shape])
    yield helper.make_node("ConstantOfShape", [shape], [output], value=tensor("value", value))
