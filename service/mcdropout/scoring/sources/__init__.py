"""Sources: a kind of file each, read some rows at a time, from any row on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mcdropout.catalogue.inputs import Input
from mcdropout.scoring.chunks import Source
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.pyarrow import pyarrow

Open = Callable[[Path, Sequence[Input], Sequence[str]], Source]


def _npy(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    from mcdropout.scoring.sources.npy import NpySource

    return NpySource(path, takes, keep)


def _npz(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    from mcdropout.scoring.sources.npz import NpzSource

    return NpzSource(path, takes, keep)


def _csv(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    from mcdropout.scoring.sources.csv import CsvSource

    return CsvSource(path, takes, keep)


def _parquet(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    pyarrow()
    from mcdropout.scoring.sources.arrow import ParquetSource

    return ParquetSource(path, takes, keep)


def _arrow(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    pyarrow()
    from mcdropout.scoring.sources.arrow import ArrowSource

    return ArrowSource(path, takes, keep)


def _images(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    from mcdropout.scoring.sources.images import ImageSource

    return ImageSource(path, takes, keep)


SOURCES: Mapping[str, Open] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
"""By the end of a file's name, what reads it."""


def open_source(path: Path, takes: Sequence[Input], keep: Sequence[str]) -> Source:
    """A file, or a folder of images, whose rows a model can take as far as its start tells.

    Args:
        path: the file, or the folder.
        takes: the model's inputs.
        keep: the columns that the output keeps.

    Raises:
        ScoringError: it cannot be read, or holds something else.
    """
    if path.is_dir():
        return _images(path, takes, keep)
    found = SOURCES.get(path.suffix.lower())
    if found is None:
        raise ScoringError(f"{path}: {', '.join(SOURCES)}, and folders of images, are accepted")
    return found(path, takes, keep)


def stamp_of(path: Path) -> dict[str, object]:
    """A file's size in bytes, and the time of its last writing in ns."""
    stat = path.stat()
    return {"bytes": stat.st_size, "written_ns": stat.st_mtime_ns}
