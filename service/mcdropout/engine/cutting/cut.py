"""The cut: what of a graph runs once a row, what once a pass of a row, and what crosses from the one to the other.

What depends on a mask is the suffix; what does not is the prefix; the values that cross are the frontier. Whatever
dimension holds the rows of a value inside the graph, in the frontier it is the first. What is made of sizes or weights
alone is computed again in the suffix: it costs nothing, or is folded.

Only what to cut is decided here; each form of graph writes the two programs itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from mcdropout.engine.cutting.graph import CutGraph, Operation, V, needed, reached
from mcdropout.engine.program import FrontierValue, Outline


@dataclass(frozen=True)
class Cutting(Generic[V]):
    """What a graph is divided into.

    Attributes:
        crossing: the values that the suffix takes from the prefix, in the order in which they are made.
        before: the operations that run once a row.
        after: those that run once a pass of a row.
        prefix_values: what `crossing` is made of, weights and sizes too.
        masked: the values that depend on what a mask holds.
        outline: what crosses, and what it costs.
    """

    crossing: tuple[V, ...]
    before: tuple[Operation[V], ...]
    after: tuple[Operation[V], ...]
    prefix_values: frozenset[V]
    masked: frozenset[V]
    outline: Outline


def cut(graph: CutGraph[V], *, whole: bool = False, merged: bool = True) -> Cutting[V]:
    """Decide where to cut a graph.

    A value that cannot cross, because its dimensions do not tell its rows apart, is computed in the suffix instead.

    Args:
        graph: `f(*inputs, *masks)`.
        whole: cut at the inputs instead, so that the suffix holds everything.
        merged: whether values may cross in which a row is several entries of a dimension.
    """
    inputs = frozenset(graph.inputs)
    from_input = reached(graph, graph.inputs)
    masked = reached(graph, graph.masks)
    waiting = set() if graph.counts_sizes else reached(graph, graph.masks, through_sizes=True)
    in_suffix = masked | (from_input - inputs) if whole else set(masked)
    origin = {value: operation for operation in graph.operations for value in operation.gives}

    def can_cross(value: V) -> bool:
        if value in inputs:
            return True
        if value in waiting or not graph.is_array(value):
            return False
        layout = graph.layout(value)
        return layout.known and (not layout.merged or (layout.apart and merged))

    crossing = _crossing(graph, from_input, in_suffix)
    while stuck := [value for value in crossing if not can_cross(value)]:
        in_suffix.update(given for value in stuck for given in origin[value].gives)
        crossing = _crossing(graph, from_input, in_suffix)

    before_crossing = needed(graph, crossing, masked)
    before = _giving(graph, before_crossing & from_input)
    after = _giving(graph, in_suffix)
    taken = [*crossing, *(value for operation in after for value in operation.gives)]
    outline = Outline(
        frontier=tuple(_frontier_value(graph, value) for value in crossing),
        prefix_operations=len(before),
        suffix_operations=len(after),
        suffix_bytes=sum(map(graph.row_bytes, taken)),
    )
    return Cutting(crossing, before, after, frozenset(before_crossing), frozenset(masked), outline)


def _crossing(graph: CutGraph[V], from_input: set[V], in_suffix: set[V]) -> tuple[V, ...]:
    used = set(graph.outputs)
    for operation in _giving(graph, in_suffix):
        used.update(operation.takes)
    made = [*graph.inputs, *(value for operation in graph.operations for value in operation.gives)]
    return tuple(value for value in made if value in used and value in from_input and value not in in_suffix)


def _giving(graph: CutGraph[V], values: Iterable[V]) -> tuple[Operation[V], ...]:
    """The operations that give any of `values`."""
    wanted = set(values)
    return tuple(operation for operation in graph.operations if not wanted.isdisjoint(operation.gives))


def _frontier_value(graph: CutGraph[V], value: V) -> FrontierValue:
    layout = graph.layout(value)
    index = list(graph.inputs).index(value) if value in graph.inputs else None
    return FrontierValue(layout.row_shape, layout.axis is not None, index, layout.merged)
