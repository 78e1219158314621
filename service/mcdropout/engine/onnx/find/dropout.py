"""Dropout: what in a graph is random, found node by node, and the sites that masks are drawn for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.cutting.layout import ROWS, Layout
from mcdropout.engine.cutting.placement import site_at
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import ELEMENT
from mcdropout.engine.onnx.dataflow import (
    DRAWS,
    Dataflow,
    is_op,
    key,
    levels,
    reached,
    sizes_alone,
)
from mcdropout.engine.onnx.find.draws import Draw, Facts, dropout, noise, paths
from mcdropout.engine.onnx.find.written import origins, recognise, without_where
from mcdropout.engine.onnx.inference import FILLED_SINCE, silenced
from mcdropout.engine.onnx.measuring import Probe
from mcdropout.engine.sites import Site
from mcdropout.engine.sizes import Sizing


@dataclass(frozen=True)
class Found:
    """What in a graph is random.

    Attributes:
        flow: the graph, its dropout written as it is understood.
        draws: in the order in which they are drawn.
        idle: the nodes of those that no output depends on.
        types: ONNX element types of the graph's values.
    """

    flow: Dataflow
    draws: tuple[Draw, ...]
    idle: frozenset[str]
    types: Mapping[str, int]


def find_draws(
    flow: Dataflow, arrays: Sequence[Array], sizing: Sizing | None = None, added: Mapping[str, str] | None = None
) -> Found:
    """Find what in a graph is random, and what it makes of it.

    Args:
        flow: the graph, in inference form but for its dropout.
        arrays: example inputs, `[3, ...]` each.
        sizing: which sizes of the inputs may differ; None where none may.
        added: what each `Dropout` that the selection has added drops, by its key.

    Raises:
        UnsupportedModelError: something is random that no mask can stand for.
    """
    few = [with_rows(x, ROWS[0]) for x in arrays]
    facts = _facts(flow, few, sizing)
    if any(is_op(node, *DRAWS) for node in flow.nodes):
        flow = without_where(flow, facts)
        facts = _facts(flow, few, sizing)
    origin, called = origins(flow, facts), paths(flow)
    draws: list[Draw] = []
    for node in flow.nodes:
        if not is_op(node, "Dropout", *DRAWS):
            continue
        path = called[key(node)]
        if is_op(node, "Dropout"):
            draw = dropout(node, path, facts)
            kind = (added or {}).get(key(node))
            draws.append(draw if kind is None else replace(draw, kind=_wider(draw.kind, kind), injected=True))
        elif is_op(node, "Multinomial"):
            raise UnsupportedModelError(
                f"{path} (Multinomial) draws categories, which no mask can stand for; dropout and normal noise are "
                "accepted"
            )
        elif flow.opset < FILLED_SINCE:
            raise UnsupportedModelError(
                f"{path} ({node.op_type}) draws numbers in a graph of version {flow.opset} of the ONNX operators; "
                f"{FILLED_SINCE} or later is accepted where dropout is written out"
            )
        elif is_op(node, "RandomNormal", "RandomNormalLike"):
            draws.append(noise(node, path))
        else:
            draws.append(recognise(node, path, origin, facts))
    sized = sizes_alone(flow)
    idle = {draw.node for draw in draws if not reached(flow, _starts(draw, flow), sized).intersection(flow.outputs)}
    return Found(flow, tuple(draws), frozenset(idle), facts.probe.types)


def _wider(seen: str, said: str) -> str:
    """What is dropped where the selection says so; elements of attention are seen to be some."""
    return seen if said == ELEMENT else said


def _facts(flow: Dataflow, few: Sequence[Array], sizing: Sizing | None) -> Facts:
    quiet = silenced(flow)
    return Facts(flow, Probe(quiet), few, levels(quiet, sizes_alone(quiet)), sizing)


def _starts(draw: Draw, flow: Dataflow) -> list[str]:
    return [name for name in flow.producers[draw.node].output if name]


def site_of(draw: Draw, layout: Layout) -> Site:
    """The site of a draw whose mask has the layout of a value.

    Raises:
        UnsupportedModelError: the shape does not follow the rows.
    """
    if not layout.known or (layout.merged and not layout.apart):
        raise UnsupportedModelError(
            f"{draw.path} ({draw.kind}) takes a mask of the shape {list(layout.shape)} with {ROWS[1]} rows; one "
            "dimension that grows with the rows, by the same number of entries for each, or none is accepted"
        )
    return replace(site_at(layout, draw.path, draw.number, draw.kind, draw.p), injected=draw.injected)
