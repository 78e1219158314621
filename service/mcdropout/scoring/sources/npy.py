"""NumPy's `.npy`: mapped into memory a chunk at a time, so that what was read is let go of."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.inputs import Input
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.sources import stamp_of
from mcdropout.scoring.sources.arrays import ArrayChunk, check_header


class NpySource:
    """The rows of an array in a file.

    Attributes:
        total: how many there are.
        kept: nothing, as it has no columns beside the input's.
        stamp: the file's size and time.
    """

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        self._path, self._takes = path, takes
        self.kept: dict[str, Any] = {}
        if len(takes) > 1:
            raise ScoringError(
                f"{path}: it holds one array, and the model takes {[spec.name for spec in takes]}; a .npz of an array "
                "for each is accepted"
            )
        if keep:
            raise ScoringError(f"{path}: it has no column {keep[0]!r} to keep; --keep is accepted with tables and .npz")
        array = self._mapped()
        check_header(str(path), takes[0], array.dtype, array.shape)
        self.total = len(array)
        self.stamp = stamp_of(path)

    def chunks(self, first: int, rows: int) -> Iterator[ArrayChunk]:
        """As `Source.chunks`."""
        for start in range(first, self.total, rows):
            array = np.array(self._mapped()[start : start + rows])
            share = min(1.0, (start + rows) / self.total)
            yield ArrayChunk(str(self._path), start, self._takes, [array], share)

    def _mapped(self) -> npt.NDArray[Any]:
        try:
            found: npt.NDArray[Any] = np.load(self._path, mmap_mode="r", allow_pickle=False)
            return found
        except (ValueError, EOFError, OSError) as error:
            raise ScoringError(
                f"{self._path}: cannot be read ({error}); what numpy.save writes of numbers is accepted"
            ) from error
