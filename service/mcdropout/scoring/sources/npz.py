"""NumPy's `.npz`: an array for each input, by its name, read on and on, compressed or not."""

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.inputs import Input
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.sources import stamp_of
from mcdropout.scoring.sources.arrays import ArrayChunk, check_header

_SUFFIX = ".npy"
_ALONE = "arr_0"  # the name of an array that was saved without one
_PART_BYTES = 2**20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


class NpzSource:
    """The rows of an archive's arrays.

    Attributes:
        total: how many there are.
        kept: the dtypes of the arrays that an output keeps.
        stamp: the file's size and time.
    """

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        self._path, self._takes, self._keep = path, takes, keep
        try:
            with zipfile.ZipFile(path) as archive:
                held = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
                self._names = [spec.name for spec in takes]
                if self._names[0] not in held and len(takes) == 1 and _ALONE in held:
                    self._names = [_ALONE]
                if lacks := [name for name in [*self._names, *keep] if name not in held]:
                    raise ScoringError(
                        f"{path}: it holds the arrays {held}, and lacks {lacks}; one for each input, and for each name "
                        "of --keep, is accepted"
                    )
                arrays = [_Reader(archive, name, path) for name in [*self._names, *keep]]
        except _DAMAGED as error:
            raise _damaged(path, error) from error
        for array, spec in zip(arrays, takes, strict=False):
            check_header(array.label, spec, array.dtype, array.shape)
        for array in arrays[len(takes) :]:
            if len(array.shape) != 1:
                raise ScoringError(f"{array.label} has the shape {list(array.shape)}; [rows] is accepted to be kept")
        counts = {array.label: array.shape[0] for array in arrays}
        if len(set(counts.values())) > 1:
            raise ScoringError(f"{path}: its arrays have {[*counts.values()]} rows; the same number is accepted")
        self.total = arrays[0].shape[0]
        self.kept = {name: array.dtype for name, array in zip(keep, arrays[len(takes) :], strict=True)}
        self.stamp = stamp_of(path)

    def chunks(self, first: int, rows: int) -> Iterator[ArrayChunk]:
        """As `Source.chunks`."""
        try:
            with zipfile.ZipFile(self._path) as archive, ExitStack() as opened:
                readers = [_Reader(archive, name, self._path) for name in [*self._names, *self._keep]]
                for reader in readers:
                    opened.callback(reader.close)
                    reader.skip(first)
                for start in range(first, self.total, rows):
                    count = min(rows, self.total - start)
                    arrays = [reader.read(count) for reader in readers]
                    kept = dict(zip(self._keep, arrays[len(self._takes) :], strict=True))
                    share = (start + count) / self.total
                    yield ArrayChunk(str(self._path), start, self._takes, arrays[: len(self._takes)], share, kept)
        except _DAMAGED as error:
            raise _damaged(self._path, error) from error


class _Reader:
    """An array in an archive, from which rows are read one after the other."""

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        self.label = f"{path}: the array {name!r}"
        self._file: IO[bytes] = archive.open(name + _SUFFIX)
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, is_fortran, self.dtype = read(self._file)
        self._whole: npt.NDArray[Any] | None = None
        self._at = 0
        if self.dtype.hasobject:
            raise ScoringError(f"{self.label} holds objects; numbers are accepted")
        if is_fortran and len(self.shape) > 1:  # a row lies all over it
            values = np.frombuffer(self._file.read(), self.dtype, math.prod(self.shape))
            self._whole = values.reshape(self.shape, order="F")
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])

    def skip(self, rows: int) -> None:
        """Go on behind so many rows."""
        self._at += rows
        left = 0 if self._whole is not None else rows * self._row_bytes
        while left > 0:
            part = self._file.read(min(left, _PART_BYTES))
            if not part:
                raise EOFError(f"{self.label} ends early")
            left -= len(part)

    def read(self, rows: int) -> npt.NDArray[Any]:
        """The next rows."""
        start, self._at = self._at, self._at + rows
        if self._whole is not None:
            return self._whole[start : self._at]
        content = self._file.read(rows * self._row_bytes)
        if len(content) < rows * self._row_bytes:
            raise EOFError(f"{self.label} ends early")
        return np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])

    def close(self) -> None:
        self._file.close()


def _damaged(path: Path, error: Exception) -> ScoringError:
    return ScoringError(f"{path}: cannot be read ({error}); what numpy.savez writes of numbers is accepted")
