"""Added dropout: what the selection puts behind nodes of a graph that has none there.

An exporter may have left it out, or the network was trained without any.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.kinds import CHANNEL
from mcdropout.engine.onnx.dataflow import (
    CONSTANT,
    DATA,
    Dataflow,
    Names,
    every_node,
    is_op,
    key,
    levels,
    pruned,
    renamed,
    sizes_alone,
    tensor,
)
from mcdropout.engine.onnx.draft import Draft
from mcdropout.engine.onnx.find.ends import AS_THEY_ARE, LINEAR
from mcdropout.engine.onnx.inference import RATIO_IS_INPUT_SINCE, label, silenced
from mcdropout.engine.onnx.measuring import Probe
from mcdropout.engine.selection import CHANNELS_OF, named_like

_CHANNELS_SINCE = 10  # the opset from which `Slice` takes what it cuts as inputs
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True)
class WithAdded:
    """A graph with dropout that was added.

    Attributes:
        flow: the graph; what is new is called as the node that it is behind, and `_dropout`.
        kinds: what each `Dropout` that is new drops, by the key of its node.
    """

    flow: Dataflow
    kinds: Mapping[str, str]


def with_added(flow: Dataflow, add: Mapping[str, tuple[float, str]], arrays: Sequence[Array]) -> WithAdded:
    """A graph with dropout behind some of its nodes.

    Args:
        flow: the graph.
        add: for each pattern the probability and the kind; it is compared with the names of nodes, whose first value
            that is used is dropped from, and with those of values. The first pattern that matches counts.
        arrays: example inputs.

    Raises:
        InvalidInputError: a pattern matches nothing.
        UnsupportedModelError: what a node gives is no tensor that can be dropped from.
    """
    if not add:
        return WithAdded(flow, {})
    chosen = _chosen(flow, add)
    quiet = silenced(flow)
    probe, level = Probe(quiet), levels(quiet, sizes_alone(quiet))
    ranks = {name: len(value.shape()) for name, value in probe.run(arrays, chosen).items()}
    draft, nodes, kinds = Draft(flow), list[NodeProto](), dict[str, str]()
    called = Names(map(label, every_node(flow.nodes)))
    for node in flow.nodes:
        behind = {name: draft.names.fresh(f"{name}_whole") for name in node.output if name in chosen}
        nodes.append(renamed(node, behind) if behind else node)
        for name, whole in behind.items():
            p, kind = chosen[name]
            _check(node, kind, probe.types.get(name, 0), ranks.get(name), level.get(name, DATA), flow)
            new = list(_dropping(draft, whole, name, p, kind, ranks[name], probe.types[name], flow.opset))
            (dropout,) = (each for each in new if each.op_type == "Dropout")
            dropout.name = called.fresh(f"{label(node)}_dropout")
            kinds[key(dropout)] = kind
            nodes += new
    return WithAdded(replace(flow, nodes=tuple(nodes), weights=draft.weights), kinds)


def before_last_linear(flow: Dataflow, output: str) -> str | None:
    """The node whose value the last linear layer before an output takes; None where no node gives it, or is none."""
    needed = pruned(replace(flow, outputs=(output,)))
    level = levels(needed, sizes_alone(needed))
    for node in reversed(needed.nodes):
        taken = [name for name in node.input if level.get(name, DATA) == DATA]
        if is_op(node, *LINEAR) and len(taken) == 1:
            below = needed.producers.get(taken[0])
            while below is not None and is_op(below, *AS_THEY_ARE) and below.input[0] in needed.producers:
                below = needed.producers[below.input[0]]
            return None if below is None else label(below)
    return None


def _chosen(flow: Dataflow, add: Mapping[str, tuple[float, str]]) -> dict[str, tuple[float, str]]:
    """The values from which is dropped: those of the names, and the first of each node that is named.

    A name may have in it what means something in a pattern, as in `blocks[0]`: it stands for itself where it is one.
    """
    named = [(label(node), _first_used(node, flow)) for node in flow.nodes]
    named += [(name, name) for node in flow.nodes for name in node.output if name]
    found: dict[str, tuple[float, str]] = {}
    for pattern, what in add.items():
        matched = [value for name, value in named if name == pattern]
        matched = matched or [value for name, value in named if fnmatchcase(name, pattern)]
        if not matched:
            raise InvalidInputError(
                f"the selection adds dropout to {pattern!r}, which matches no node and no value of the graph; "
                f"{named_like(pattern, map(label, flow.nodes))} accepted"
            )
        for name in matched:
            found.setdefault(name, what)
    return found


def _first_used(node: NodeProto, flow: Dataflow) -> str:
    """The first of a node's values that something takes."""
    return next((name for name in node.output if name in flow.consumers or name in flow.outputs), key(node))


def _check(node: NodeProto, kind: str, type_: int, rank: int | None, level: int, flow: Dataflow) -> None:
    """Raise UnsupportedModelError where what a node gives cannot be dropped from as the kind says."""
    fewest = CHANNELS_OF if kind == CHANNEL else 0
    if type_ in _FLOATS and rank is not None and rank >= fewest and level != CONSTANT:
        if kind == CHANNEL and flow.opset < _CHANNELS_SINCE:
            raise UnsupportedModelError(
                f"the selection adds dropout of channels to {label(node)}, in a graph of version {flow.opset} of the "
                f"ONNX operators; {_CHANNELS_SINCE} or later is accepted, or dropout of elements"
            )
        return
    gives = f"{_FLOATS[type_]} with {rank} dimensions" if type_ in _FLOATS else "no floating-point numbers"
    raise UnsupportedModelError(
        f"the selection adds dropout to {label(node)} ({node.op_type}), which gives "
        f"{'a constant' if level == CONSTANT else gives}; a node that gives floating-point numbers"
        f"{', [rows, channels, ...],' if fewest else ''} is accepted"
    )


def _dropping(
    draft: Draft, whole: str, name: str, p: float, kind: str, rank: int, type_: int, opset: int
) -> Iterator[NodeProto]:
    """The nodes that make `name` of `whole`, what was there before."""
    if kind != CHANNEL:
        yield _dropout(draft, whole, name, p, opset)
        return
    fresh = draft.names.fresh
    sizes, own, shape = fresh(f"{name}_sizes"), fresh(f"{name}_channels"), fresh(f"{name}_mask_shape")
    ones, mask = fresh(f"{name}_ones"), fresh(f"{name}_kept")
    first, end, rest = (draft.whole_numbers(values) for values in ([0], [2], [1] * (rank - 2)))
    yield helper.make_node("Shape", [whole], [sizes])
    yield helper.make_node("Slice", [sizes, first, end], [own])
    yield helper.make_node("Concat", [own, rest], [shape], axis=0)
    one = tensor("value", np.array([1.0], helper.tensor_dtype_to_np_dtype(type_)))
    yield helper.make_node("ConstantOfShape", [shape], [ones], value=one)
    yield _dropout(draft, ones, mask, p, opset)
    yield helper.make_node("Mul", [whole, mask], [name])


def _dropout(draft: Draft, whole: str, name: str, p: float, opset: int) -> NodeProto:
    if opset < RATIO_IS_INPUT_SINCE:
        return helper.make_node("Dropout", [whole], [name], ratio=p)
    return helper.make_node("Dropout", [whole, draft.constant("ratio", np.array(p, np.float32))], [name])
