"""Layouts: where a value of a graph has its rows, found from its shapes with two rows and with three."""

from dataclasses import dataclass

import numpy as np

from mcdropout.engine.arrays import Array

ROWS = (2, 3)
"""With how many rows values are looked at."""


@dataclass(frozen=True)
class Layout:
    """Where a value has its rows.

    Attributes:
        shape: its sizes; along `axis`, with as many rows as it was seen with.
        axis: the dimension that holds the rows; None where none does, or where that is not known.
        times: how many entries along `axis` belong to one row.
        interleaved: whether these lie as far apart as there are rows; otherwise they are neighbours.
        known: whether its shape follows from the number of rows as `axis` and `times` say.
        apart: whether along `axis` each row has entries of its own, as `times` and `interleaved` say.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    times: int = 1
    interleaved: bool = False
    known: bool = True
    apart: bool = True

    @property
    def rest(self) -> tuple[int, ...]:
        """The shape without the dimension of the rows."""
        return self.shape if self.axis is None else (*self.shape[: self.axis], *self.shape[self.axis + 1 :])

    @property
    def merged(self) -> bool:
        """Whether a row is several entries of one dimension."""
        return self.times > 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, its entries along `axis` first where there are several; of all, where it has none."""
        return (self.times, *self.rest) if self.merged else self.rest


def growing(two: tuple[int, ...], three: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions in which the shape with three rows differs from that with two, of the same length."""
    return tuple(axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b)


def layout_between(two: tuple[int, ...], three: tuple[int, ...]) -> Layout:
    """The layout of a value from its shapes with two rows and with three; entries of a row count as neighbours."""
    axes = growing(two, three) if len(two) == len(three) else None
    if axes == ():
        return Layout(three)
    if axes is None or len(axes) > 1:
        return Layout(three, known=False)
    (axis,) = axes
    times, left = divmod(two[axis], ROWS[0])
    return Layout(three, axis, times) if not left and three[axis] == ROWS[1] * times else Layout(three, known=False)


def is_interleaved(changed: Array, times: int) -> bool | None:
    """Whether the entries of a row lie apart along their dimension; None where rows have none of their own.

    Args:
        changed: the indices of those that change with the middle one of three rows.
        times: how many belong to a row.
    """
    if ((changed >= times) & (changed < 2 * times)).all():
        return False
    return True if np.all(changed % ROWS[1] == 1) else None
