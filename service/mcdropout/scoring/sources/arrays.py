"""Arrays of files: chunks of one array for each input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.arrays import declared, rows_of_array
from mcdropout.catalogue.checks import RowsError, accepted_shape
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


def check_header(label: str, spec: Input, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    """Raise ScoringError where an array of rows does not fit an input, as far as its header tells."""
    if len(shape) != len(spec.shape) + 1 or shape[0] < 1:
        raise ScoringError(f"{label} has the shape {list(shape)}; {accepted_shape(spec)}, with 1 row or more")
    try:
        declared(label, spec, dtype, shape, None)
    except RowsError as error:
        raise ScoringError(str(error)) from error
