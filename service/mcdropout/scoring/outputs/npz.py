"""NumPy's `.npz`: an array for each statistic, as answers over HTTP have them.

Classes are numbers there, in the order of the model's labels. Rows without an answer have NaN, -1 for a class, and no
passes.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.layout import PASSES, Layout
from mcdropout.scoring.scorer import Scored

_SUFFIX = ".npy"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


class NpzOutput:
    """Writes archives that are not compressed."""

    suffix = ".npz"

    def __init__(self, layout: Layout) -> None:
        if any(item.shape is None for item in layout.items):
            raise ScoringError(
                "the answers of this model differ in size from row to row, which no array holds; reduce, or an output "
                "that ends in .parquet, .arrow or .csv, is accepted"
            )
        self._layout = layout
        self._names = [*layout.kept, *(item.name for item in layout.in_order)]

    def write(self, scored: Scored, path: Path) -> None:
        """As `Output.write`."""
        arrays = {name: _kept(scored.kept[name]) for name in self._layout.kept}
        for item in self._layout.in_order:
            if item.name == PASSES:
                arrays[PASSES] = np.where(scored.known, scored.passes, 0)
                continue
            assert item.shape is not None
            values = np.asarray(scored.values.get(item.name, np.zeros((len(scored.known), *item.shape), item.dtype)))
            if not scored.known.all():
                values = values.copy()
                values[~scored.known] = {"f": np.nan, "i": -1}.get(item.dtype.kind, False)
            arrays[item.name] = values
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with _member(archive, name) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """As `Output.join`."""
        with zipfile.ZipFile(path, "w") as archive:
            for name in self._names:
                shapes = [(array.shape, array.dtype) for array in _arrays(parts, name)]
                dtype = np.result_type(*{kind for _, kind in shapes})
                rows = sum(shape[0] for shape, _ in shapes)
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (rows, *shapes[0][0][1:]),
                }
                with _member(archive, name) as file:
                    np.lib.format.write_array_header_2_0(file, header)
                    for array in _arrays(parts, name):
                        file.write(np.ascontiguousarray(array, dtype).tobytes())


def _arrays(parts: Sequence[Path], name: str) -> Iterator[Array]:
    for part in parts:
        with np.load(part, allow_pickle=False) as archive:
            yield archive[name]


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A member to write to, which is of no time, so that the same arrays are the same bytes."""
    with archive.open(zipfile.ZipInfo(name + _SUFFIX, _FIRST_DAY), "w", force_zip64=True) as file:
        yield file


def _kept(values: Any) -> Array:
    """A column that is kept, as an array of no objects."""
    if isinstance(values, np.ndarray):
        return values
    cells = values.to_pylist() if hasattr(values, "to_pylist") else values
    found = np.asarray(cells)
    return found if found.dtype != object else np.array(["" if cell is None else str(cell) for cell in cells])
