"""Branches: what of a graph sizes alone decide, which is settled where it is the same at all that are accepted."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from onnx import NodeProto, helper, numpy_helper

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.cutting.layout import ROWS
from mcdropout.engine.faults import refusing
from mcdropout.engine.onnx.dataflow import (
    CONSTANT,
    DATA,
    Dataflow,
    Names,
    attribute,
    constants_apart,
    is_op,
    key,
    levels,
    pruned,
    renamed,
    sizes_alone,
)
from mcdropout.engine.onnx.inference import label, silenced
from mcdropout.engine.onnx.measuring import Probe
from mcdropout.engine.sizes import Sizing, told

_LONGEST = 10.0  # seconds in which values are looked at; what is not known by then is taken to follow the sizes


@dataclass(frozen=True)
class Sized:
    """Values that no input decides other than by its size.

    Attributes:
        settled: those that are the same at all sizes accepted, and for any rows.
        following: the others, each with sizes at which it is another than with the examples; with others than these,
            where there is none that is known.
    """

    settled: dict[str, Array]
    following: dict[str, dict[str, int]]


def look_at(flow: Dataflow, names: Collection[str], arrays: Sequence[Array], sizing: Sizing | None) -> Sized:
    """Find out which values are the same at all sizes that are accepted.

    Args:
        flow: the graph, which draws nothing that these depend on.
        names: of values below DATA.
        arrays: example inputs, `[rows, ...]` each.
        sizing: which sizes may differ; None where none may but the number of rows.
    """
    settled = {name: numpy_helper.to_array(flow.weights[name]) for name in names if name in flow.weights}
    made = [name for name in names if name not in settled]
    following: dict[str, dict[str, int]] = {}
    if not made:
        return Sized(settled, following)
    probe = Probe(pruned(replace(flow, outputs=tuple(made))))
    level = levels(flow, sizes_alone(flow))

    def look(sizes: dict[str, int], found: Sequence[Array]) -> None:
        for rows in (1, *ROWS):
            values = probe.run([with_rows(x, rows) for x in found], made)
            for name in [name for name in made if name in values and name not in following]:
                value = values[name].numpy()
                if not _same(settled.setdefault(name, value), value):
                    following[name] = sizes

    look({} if sizing is None else sizing.base, arrays)
    if sizing is not None:
        each, finish = sizing.each(), time.monotonic() + _LONGEST
        sized = {name for name in made if level[name] > CONSTANT}
        for sizes in each:
            if not sized - following.keys() or time.monotonic() > finish:
                break
            with refusing(f"the graph does not run at {told(sizes)}", "sizes at which it does are accepted"):
                look(sizes, sizing.examples_at(arrays, sizes))
        else:
            sized = set() if sizing.few else sized
        following |= {name: sizing.unlike() for name in sized - following.keys()}
    return Sized({name: value for name, value in settled.items() if name not in following}, following)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def branches_inlined(
    flow: Dataflow, arrays: Sequence[Array], sizing: Sizing | None = None
) -> tuple[Dataflow, dict[str, dict[str, int]]]:
    """The graph with the branches written out that are taken at all sizes accepted, whatever the inputs hold.

    Beside it, the keys of the `If` nodes that are left because they follow sizes, each with sizes as `Sized` has them.

    Args:
        flow: the graph.
        arrays: example inputs, `[3, ...]` each.
        sizing: which sizes may differ; None where none may.
    """
    left: dict[str, dict[str, int]] = {}
    while True:
        quiet = silenced(flow)
        level = levels(quiet, sizes_alone(quiet))
        decided = {
            key(node): node.input[0]
            for node in flow.nodes
            if is_op(node, "If") and level.get(node.input[0], DATA) < DATA and key(node) not in left
        }
        found = look_at(quiet, set(decided.values()), arrays, sizing)
        left |= {node: found.following[name] for node, name in decided.items() if name in found.following}
        taken = {node: bool(found.settled[name].item()) for node, name in decided.items() if name in found.settled}
        if not taken:
            return flow, left
        flow = _without(flow, taken)


def _without(flow: Dataflow, taken: dict[str, bool]) -> Dataflow:
    names, weights = Names(flow.names), dict(flow.weights)
    called = {node.name for node in flow.nodes}
    nodes: list[NodeProto] = []
    for node in flow.nodes:
        if key(node) not in taken or not is_op(node, "If"):
            nodes.append(node)
            continue
        branch = attribute(node, "then_branch" if taken[key(node)] else "else_branch")
        prefix = label(node)
        inside = [name for inner in branch.node for name in inner.output if name]
        inside += [value.name for value in branch.initializer]
        new = {name: names.fresh(f"{prefix}/{name}") for name in inside}
        for value in branch.initializer:
            weights[new[value.name]] = value
        for inner in branch.node:
            written = renamed(inner, new)
            if inner.name in called:  # two nodes of one graph have no name in common; nodes of two branches may
                written.name = inner.name and Names(called).fresh(f"{prefix}/{inner.name}")
            called.add(written.name)
            nodes.append(written)
        for value, output in zip(branch.output, node.output, strict=True):
            if output:
                nodes.append(helper.make_node("Identity", [new.get(value.name, value.name)], [output]))
    return constants_apart(pruned(replace(flow, nodes=tuple(nodes), weights=weights)))
