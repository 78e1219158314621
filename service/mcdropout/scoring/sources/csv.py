"""CSV: a line a row, its columns named in the first line, or numbered where that holds values too."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.tables import Binding, Column, Kind, rows_of_cells
from mcdropout.engine.ragged import Rows
from mcdropout.scoring.chunks import called
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.sources import stamp_of
from mcdropout.scoring.sources.tables import bound

_MISSING = frozenset({"", "na", "nan", "null", "none"})
_TRUTH = {"true": True, "false": False}
_TRUTH_OR_NUMBER = {**_TRUTH, "1": True, "0": False}
_SEEN = 100  # lines that show what a column holds
_EXACT = 2**53  # up to which floats hold each whole number


class CsvSource:
    """The lines of a CSV file.

    Attributes:
        total: None, as nobody counted them.
        kept: the types of the columns that an output keeps: text.
        stamp: the file's size and time.
    """

    total = None

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        self._path, self._takes = path, takes
        with _lines(path) as (_, lines):
            seen = list(islice(lines, _SEEN))
        if not seen:
            raise ScoringError(f"{path}: it is empty; a line of names, and one for each row, are accepted")
        self._has_names = not all(_is_value(cell) for cell in seen[0])
        names = [cell.strip() for cell in seen[0]] if self._has_names else [str(n) for n in range(len(seen[0]))]
        if self._has_names and len(seen) == 1:
            raise ScoringError(f"{path}: it holds names alone; a line for each row is accepted")
        for spec in takes:
            if spec.varies or len(spec.shape) > 1:
                raise ScoringError(
                    f"{path}: the input {spec.name!r} has the shape {spec.shape}, and a line of a .csv one dimension; "
                    "a column of lists in a .parquet or .arrow file is accepted"
                )
        wanted = {name: kind for spec in takes for name, kind in _wanted(spec).items()}
        kinds = [wanted.get(name) or _kind_of(seen[1 if self._has_names else 0 :], n) for n, name in enumerate(names)]
        if len(takes) == 1 and takes[0].columns is None and len(names) - len(keep) == (takes[0].shape or [1])[0]:
            # All of them are meant: one that is wrong is the cell's fault, and not the column's.
            fits: Kind = "truth" if takes[0].kind == "b" else "number"
            kinds = [kind if name in keep else fits for name, kind in zip(names, kinds, strict=True)]
        columns = [Column(name, kind, "text") for name, kind in zip(names, kinds, strict=True)]
        self._bindings = bound(path, columns, takes, keep)
        self._places = {name: place for place, name in enumerate(names)}
        self.kept: dict[str, Any] = dict.fromkeys(keep, str)
        self.stamp = stamp_of(path)

    def chunks(self, first: int, rows: int) -> Iterator["CsvChunk"]:
        """As `Source.chunks`."""
        size = max(1, self._path.stat().st_size)
        with _lines(self._path) as (raw, lines):
            for _ in islice(lines, first + self._has_names):
                pass
            while some := list(islice(lines, rows)):
                share = min(1.0, raw.tell() / size)
                yield CsvChunk(str(self._path), first, some, self._bindings, self._places, tuple(self.kept), share)
                first += len(some)


@dataclass(frozen=True)
class CsvChunk:
    """Lines that follow one another.

    Attributes:
        name: of the file, for messages.
        first: the index in the file of the first row.
        lines: the cells of each.
        bindings: the columns of each input.
        places: where in a line each column is.
        keep: the columns that an output keeps.
        share: as `Chunk` has it.
    """

    name: str
    first: int
    lines: list[list[str]]
    bindings: Sequence[Binding]
    places: Mapping[str, int]
    keep: Sequence[str]
    share: float | None
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.lines))

    @property
    def kept(self) -> dict[str, list[str | None]]:
        """As `Chunk.kept`; None for a cell that a short line lacks."""
        return {
            name: [line[self.places[name]] if len(line) > self.places[name] else None for line in self.lines]
            for name in self.keep
        }

    def read(self, start: int, stop: int) -> tuple[Rows, ...]:
        """As `Chunk.read`."""
        label = called(self.name, self.first, start, stop)
        lines = self.lines[start:stop]
        for line in lines:
            if len(line) != len(self.places):
                raise RowsError(f"{label} has {len(line)} cells; {len(self.places)}, one for each column, are accepted")
        cells = _Cells(lines, self.places)
        return tuple(rows_of_cells(label, cells, binding, stop - start) for binding in self.bindings)


@dataclass(frozen=True)
class _Cells:
    lines: list[list[str]]
    places: Mapping[str, int]

    def matrix(self, label: str, binding: Binding) -> npt.NDArray[Any]:
        """As `Cells.matrix`."""
        columns = [self._column(name, binding) for name in binding.names]
        values = np.array(columns, np.float64).T
        if binding.spec.kind == "f":
            return values
        if binding.spec.kind == "b":
            return values.astype(bool)
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        if not (np.abs(values) < _EXACT).all() or (whole != values).any():
            raise RowsError(f"{label} holds no whole number")
        return whole

    def _column(self, name: str, binding: Binding) -> list[float]:
        place, codes, spec = self.places[name], binding.codes.get(name), binding.spec
        cells = [line[place] for line in self.lines]
        try:
            if codes is not None:
                return [codes[cell] for cell in cells]
            if spec.kind == "b":
                return [_TRUTH_OR_NUMBER[cell.strip().lower()] for cell in cells]
            if spec.takes_missing:
                return [float("nan") if cell.strip().lower() in _MISSING else float(cell) for cell in cells]
            return list(map(float, cells))
        except (KeyError, ValueError) as error:
            raise RowsError(f"{error} in the column {name!r}") from error

    def record(self, label: str, binding: Binding) -> dict[str, Any]:
        """As `Cells.record`."""
        (line,) = self.lines
        spec = binding.spec
        found: dict[str, Any] = {}
        for name in binding.names:
            cell = line[self.places[name]]
            is_name = name in binding.codes and not (spec.takes_missing and cell.strip().lower() in _MISSING)
            value = cell if is_name else _value(cell)
            whole = spec.kind == "i" and isinstance(value, float) and value.is_integer()
            found[name] = int(value) if whole else value
        return found


@contextmanager
def _lines(path: Path) -> Iterator[tuple[io.BufferedReader, Iterator[list[str]]]]:
    """The cells of each line that is not empty, and the file, which tells how far it was read.

    Raises:
        ScoringError: it cannot be read, within as outside.
    """
    try:
        with path.open("rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            yield raw, (line for line in csv.reader(text) if line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScoringError(f"{path}: cannot be read ({error}); CSV in UTF-8 is accepted") from error


def _value(cell: str) -> Any:
    """A cell as JSON would have it; as the text that it is where it is no value."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return None
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return cell


def _is_value(cell: str) -> bool:
    return not isinstance(_value(cell), str)


def _wanted(spec: Input) -> dict[str, Kind]:
    """What the columns are to hold that a bundle names; whether they do, each row says."""
    fits: Kind = "truth" if spec.kind == "b" else "number"
    if spec.columns is not None:
        return {name: "text" if name in spec.categories else fits for name in spec.columns}
    return {} if spec.shape else {spec.name: fits}


def _kind_of(lines: Sequence[Sequence[str]], place: int) -> Kind:
    """What a column holds, by some lines."""
    values = [_value(line[place]) for line in lines if len(line) > place]
    if any(isinstance(value, str) for value in values):
        return "text"
    return "truth" if any(isinstance(value, bool) for value in values) else "number"
