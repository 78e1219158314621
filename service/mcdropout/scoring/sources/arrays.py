"""Arrays of files: chunks of one array for each input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.arrays import declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError, accepted_shape, check_bounds
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.scoring.chunks import called
from mcdropout.scoring.errors import ScoringError


@dataclass(frozen=True)
class ArrayChunk:
    """Rows that are an array for each input.

    Attributes:
        name: of the file, for messages.
        first: the index in the file of the first row.
        takes: the model's inputs.
        arrays: `[rows, *shape]` for each.
        share, kept: as `Chunk` has them.
    """

    name: str
    first: int
    takes: Sequence[Input]
    arrays: Sequence[npt.NDArray[Any]]
    share: float | None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(self.arrays[0])

    def read(self, start: int, stop: int) -> tuple[Rows, ...]:
        """As `Chunk.read`."""
        label = called(self.name, self.first, start, stop)
        found: tuple[Rows, ...] = ()
        for spec, array in zip(self.takes, self.arrays, strict=True):
            of_input = label if len(self.takes) == 1 else f"{label}, in the array {spec.name!r},"
            found += rows_of_array(of_input, spec, array[start:stop])
        return found


def rows_of_array(label: str, spec: Input, values: npt.NDArray[Any]) -> tuple[Rows, ...]:
    """The rows `[rows, *shape]` of an array, as the network takes them.

    Raises:
        RowsError: they cannot be used; of one row of numbers it names the column.
    """
    values = np.ascontiguousarray(values)
    given = values[0] if len(values) == 1 else values
    array = declared(label, spec, values.dtype, given.shape, None)
    try:
        return rows_of_arrays([(array, given)], None, lambda: None)
    except RowsError:
        if len(values) == 1 and values.ndim == 2 and spec.kind != "b":
            names = spec.columns or range(values.shape[1])
            for name, cell in zip(names, values[0, :, None], strict=True):
                check_bounds(f"{label} in the column {name!r}", cell, spec, infinite="infinity")
        raise


def check_header(label: str, spec: Input, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    """Raise ScoringError where an array of rows does not fit an input, as far as its header tells."""
    if len(shape) != len(spec.shape) + 1 or shape[0] < 1:
        raise ScoringError(f"{label} has the shape {list(shape)}; {accepted_shape(spec)}, with 1 row or more")
    try:
        declared(label, spec, dtype, shape, None)
    except RowsError as error:
        raise ScoringError(str(error)) from error
