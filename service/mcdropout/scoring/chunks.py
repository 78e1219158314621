"""Chunks: some rows of a file that follow one another, and which of them a model can take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.rows import behind_one_another
from mcdropout.engine.ragged import Rows

Check = Callable[[tuple[Rows, ...]], None]
"""Raises RowsError for rows that fit each input, and not one another."""


class Chunk(Protocol):
    """Some rows of a file that follow one another."""

    @property
    def first(self) -> int:
        """The index in the file of its first row."""

    @property
    def count(self) -> int:
        """How many rows it has."""

    @property
    def kept(self) -> Mapping[str, Any]:
        """The columns that an output keeps, `[rows]` each: arrays of NumPy or Arrow, or lists of text."""

    @property
    def share(self) -> float | None:
        """How much of the file has been read with it, 0 to 1; None where that is not known."""

    def read(self, start: int, stop: int) -> tuple[Rows, ...]:
        """Some of its rows, by their places in it, as the network takes them.

        Raises:
            RowsError: one of them cannot be used; of a single row it names the file, the row, and the column.
        """


class Source(Protocol):
    """A file, or a folder of images, of which each row is predicted."""

    @property
    def total(self) -> int | None:
        """How many rows it has; None where only reading it says so."""

    @property
    def kept(self) -> Mapping[str, Any]:
        """By the names of the columns that an output keeps, their types: of NumPy's or Arrow's, or `str`."""

    @property
    def stamp(self) -> Mapping[str, Any]:
        """What tells it from another, or from itself once it has changed."""

    def chunks(self, first: int, rows: int) -> Iterator[Chunk]:
        """Its rows from `first` on, so many at a time.

        Raises:
            ScoringError: it cannot be read.
        """


@dataclass(frozen=True)
class Readable:
    """What of a chunk a model can take.

    Attributes:
        places: `[good rows]`, their places in the chunk.
        inputs: for each input the good rows, as the network takes them; empty where there are none.
        bad: by the places of the others, what is wrong with them.
    """

    places: npt.NDArray[np.int64]
    inputs: tuple[Rows, ...]
    bad: dict[int, str] = field(default_factory=dict)


def called(name: str, first: int, start: int, stop: int) -> str:
    """How messages call some rows of a chunk whose first row is `first`."""
    if stop - start == 1:
        return f"row {first + start} of {name}"
    return f"of rows {first + start} to {first + stop - 1} of {name} one"


def readable(chunk: Chunk, check: Check, *, skip_bad: bool) -> Readable:
    """The rows of a chunk that a model can take.

    Raises:
        RowsError: one cannot be used, and `skip_bad` is false.
    """
    bad: dict[int, str] = {}
    parts = _halved(chunk, 0, chunk.count, check, bad if skip_bad else None)
    places = np.array([place for some, _ in parts for place in some], np.int64)
    if len(parts) <= 1:
        return Readable(places, parts[0][1] if parts else (), bad)
    of_each = zip(*(inputs for _, inputs in parts), strict=True)
    return Readable(places, tuple(behind_one_another(rows) for rows in of_each), bad)


def _halved(
    chunk: Chunk, start: int, stop: int, check: Check, bad: dict[int, str] | None
) -> Sequence[tuple[range, tuple[Rows, ...]]]:
    """What can be read; where something cannot, one half after the other, down to the row that it is."""
    try:
        inputs = chunk.read(start, stop)
        check(inputs)
    except RowsError as error:
        if stop - start > 1:
            middle = (start + stop) // 2
            return [*_halved(chunk, start, middle, check, bad), *_halved(chunk, middle, stop, check, bad)]
        if bad is None:
            raise
        bad[start] = str(error)
        return []
    return [(range(start, stop), inputs)]
