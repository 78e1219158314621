"""Graphs as the cut sees them: operations in the order in which they run, and what they take and give."""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mcdropout.engine.cutting.layout import Layout

V = TypeVar("V", bound=Hashable)
"""What a form of graph has for a value: a name, or a node."""


@dataclass(frozen=True)
class Operation(Generic[V]):
    """One operation of a graph.

    Attributes:
        takes: the values that it looks at.
        gives: the values that come out of it.
        sized: whether it looks at sizes alone, which follow from the number of rows, so that nothing has to wait for
            what the values hold.
    """

    takes: tuple[V, ...]
    gives: tuple[V, ...]
    sized: bool = False


class CutGraph(Protocol[V]):
    """A graph `f(*inputs, *masks) -> outputs`. Values that are none of these and come out of no operation are weights.

    Attributes:
        operations: in the order in which they run.
        inputs: what the network takes, `[rows, ...]` each.
        masks: what takes the place of its draws.
        outputs: what it gives.
        counts_sizes: whether its prefix, asked for the size of a value behind a mask, counts it in rows; otherwise
            whatever needs that size waits for the mask.
    """

    @property
    def operations(self) -> Sequence[Operation[V]]: ...
    @property
    def inputs(self) -> Sequence[V]: ...
    @property
    def masks(self) -> Sequence[V]: ...
    @property
    def outputs(self) -> Sequence[V]: ...
    @property
    def counts_sizes(self) -> bool: ...

    def is_array(self, value: V) -> bool:
        """Whether a value can be handed from one graph to another, whatever its layout."""

    def layout(self, value: V) -> Layout:
        """Where a value that is an array, or an input, has its rows."""

    def row_bytes(self, value: V) -> int:
        """The memory that one row of a value takes, in bytes; 0 where it has none."""


def reached(graph: CutGraph[V], start: Iterable[V], *, through_sizes: bool = False) -> set[V]:
    """The values that depend on what the values `start` hold; with `through_sizes`, on their sizes too."""
    found = set(start)
    for operation in graph.operations:
        if (through_sizes or not operation.sized) and not found.isdisjoint(operation.takes):
            found.update(operation.gives)
    return found


def needed(graph: CutGraph[V], values: Iterable[V], apart_from: Collection[V] = ()) -> set[V]:
    """The values that `values` are made of, weights too, and themselves; sizes of those `apart_from` are there."""
    found = set(values)
    for operation in reversed(graph.operations):
        if not found.isdisjoint(operation.gives):
            found.update(x for x in operation.takes if not (operation.sized and x in apart_from))
    return found
