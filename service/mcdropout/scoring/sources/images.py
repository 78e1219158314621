"""Folders of images: a file a row, in the order of their paths."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mcdropout.catalogue.checks import Given, RowsError, check_bounds, prepare
from mcdropout.catalogue.images import image_of
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.scoring.errors import ScoringError

FILE = "file"
"""The column that says which image a row is: its path in the folder."""
_SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageSource:
    """The images of a folder, and of those in it.

    Attributes:
        total: how many there are.
        kept: the type of the column that says which image a row is.
        stamp: of their names, sizes and times.
    """

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        self._path, self._spec = path, takes[0]
        if len(takes) > 1 or takes[0].image is None:
            raise ScoringError(
                f"{path}: it is a folder, and no input is made of images: model.yaml has no `image:`, or several "
                "inputs; a file of rows is accepted"
            )
        if keep and tuple(keep) != (FILE,):
            raise ScoringError(f"{path}: a folder of images has no columns to keep but {FILE!r}, which is always kept")
        if find_spec("PIL") is None:
            raise ScoringError(f"{path}: images take Pillow (pip install 'mcdropout[images]')")
        found = [
            Path(place, name).relative_to(path).as_posix()
            for place, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith(".")
        ]
        self._files = sorted(found)
        if not found:
            raise ScoringError(f"{path}: it holds no images; files that end in {', '.join(_SUFFIXES)} are accepted")
        self.total = len(found)
        self.kept: dict[str, Any] = {FILE: str}
        self.stamp = {"files": len(found), "sha256": self._digest()}

    def _digest(self) -> str:
        known = hashlib.sha256()
        for name in self._files:
            stat = (self._path / name).stat()
            known.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
        return known.hexdigest()

    def chunks(self, first: int, rows: int) -> Iterator["ImageChunk"]:
        """As `Source.chunks`."""
        for start in range(first, self.total, rows):
            some = self._files[start : start + rows]
            yield ImageChunk(self._path, start, some, self._spec, (start + len(some)) / self.total)


@dataclass(frozen=True)
class ImageChunk:
    """Images that follow one another.

    Attributes:
        folder: where they lie.
        first: the index of the first among all.
        files: their paths in the folder.
        spec: the input.
        share: as `Chunk` has it.
    """

    folder: Path
    first: int
    files: Sequence[str]
    spec: Input
    share: float | None

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(self.files)

    @property
    def kept(self) -> dict[str, list[str]]:
        """As `Chunk.kept`."""
        return {FILE: list(self.files)}

    def read(self, start: int, stop: int) -> tuple[Rows, ...]:
        """As `Chunk.read`."""
        rows = []
        for place in range(start, stop):
            label = f"row {self.first + place}, {self.folder / self.files[place]},"
            try:
                content = (self.folder / self.files[place]).read_bytes()
            except OSError as error:
                raise RowsError(f"{label} cannot be read: {error.strerror}; PNG or JPEG files are accepted") from error
            rows.append(image_of(label, content, self.spec))
            check_bounds(label, rows[-1], self.spec)
        alike = len({row.shape for row in rows}) == 1
        given = Given(f"an image of {self.folder}", self.spec, np.stack(rows) if alike else rows, True)
        return (prepare(given, lambda: None),)
