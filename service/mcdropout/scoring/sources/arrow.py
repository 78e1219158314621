"""Parquet, Arrow and Feather files, by pyarrow, an extra of the package that is known to be there by now."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcdropout.catalogue.arrow import columns_of, rows_of_table
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.tables import Binding
from mcdropout.engine.ragged import Rows
from mcdropout.scoring.chunks import called
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.pyarrow import pyarrow
from mcdropout.scoring.sources import stamp_of
from mcdropout.scoring.sources.tables import bound

_READ_BYTES = 2**16  # at a time of each column of a Parquet file


class _Table:
    """What files of columns have in common.

    Attributes:
        total: how many rows there are; None where only reading says so.
        kept: the types of the columns that an output keeps.
        stamp: the file's size and time.
    """

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str], schema: Any, total: int | None) -> None:
        self._path = path
        self._bindings = bound(path, columns_of(schema), takes, keep)
        self._names = list(dict.fromkeys([*(name for one in self._bindings for name in one.names), *keep]))
        self.kept = {name: schema.field(name).type for name in keep}
        self.total = total
        self.stamp = stamp_of(path)
        if total == 0:
            raise ScoringError(f"{path}: it holds no rows; one or more are accepted")

    def _chunks(self, tables: Iterator[Any], first: int, rows: int) -> Iterator["TableChunk"]:
        for table in _cut(tables, rows):
            end = first + table.num_rows
            share = None if self.total is None else end / self.total
            yield TableChunk(str(self._path), first, table, self._bindings, tuple(self.kept), share)
            first = end


class ParquetSource(_Table):
    """The rows of a Parquet file, of which only the columns that are wanted are read."""

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        with _reading(path, "a Parquet file"), self._open(path) as file:
            schema, total = file.schema_arrow, file.metadata.num_rows
        super().__init__(path, takes, keep, schema, total)

    def chunks(self, first: int, rows: int) -> Iterator["TableChunk"]:
        """As `Source.chunks`."""
        with _reading(self._path, "a Parquet file"), self._open(self._path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            group = int(np.searchsorted(ends, first, side="right"))
            before = first - (int(ends[group - 1]) if group else 0)
            groups = list(range(group, len(sizes)))
            batches = file.iter_batches(rows, row_groups=groups, columns=self._names)
            yield from self._chunks(_behind(map(_table_of, batches), before), first, rows)

    @staticmethod
    def _open(path: Path) -> Any:
        parquet = pyarrow("parquet")
        return parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)


class ArrowSource(_Table):
    """The rows of an Arrow file or stream, or of a Feather file, a batch of its own at a time."""

    def __init__(self, path: Path, takes: Sequence[Input], keep: Sequence[str]) -> None:
        """As `open_source`."""
        with _reading(path, "an Arrow file"):
            reader = self._open(path)
            total = reader.count_rows() if hasattr(reader, "count_rows") else None
            super().__init__(path, takes, keep, reader.schema, total)

    def chunks(self, first: int, rows: int) -> Iterator["TableChunk"]:
        """As `Source.chunks`."""
        with _reading(self._path, "an Arrow file"):
            yield from self._chunks(_behind(self._tables(), first), first, rows)

    def _tables(self) -> Iterator[Any]:
        reader = self._open(self._path)
        if hasattr(reader, "num_record_batches"):
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        return (_table_of(batch).select(self._names) for batch in batches)

    @staticmethod
    def _open(path: Path) -> Any:
        arrow, ipc = pyarrow(), pyarrow("ipc")
        try:
            return ipc.open_file(arrow.OSFile(str(path)))
        except arrow.ArrowInvalid:
            return ipc.open_stream(arrow.OSFile(str(path)))


@dataclass(frozen=True)
class TableChunk:
    """Rows of a table.

    Attributes:
        name: of the file, for messages.
        first: the index in the file of the first row.
        table: the columns that are wanted.
        bindings: the columns of each input.
        keep: those that an output keeps.
        share: as `Chunk` has it.
    """

    name: str
    first: int
    table: Any
    bindings: Sequence[Binding]
    keep: Sequence[str]
    share: float | None

    @property
    def count(self) -> int:
        """How many rows it has."""
        count: int = self.table.num_rows
        return count

    @property
    def kept(self) -> Mapping[str, Any]:
        """As `Chunk.kept`."""
        return {name: self.table.column(name) for name in self.keep}

    def read(self, start: int, stop: int) -> tuple[Rows, ...]:
        """As `Chunk.read`."""
        label = called(self.name, self.first, start, stop)
        return rows_of_table(label, self.table.slice(start, stop - start), self.bindings)


class _reading:  # noqa: N801 - read as a phrase
    """While it is entered, what pyarrow raises is told as an error of the file.

    A class, since chunks are yielded from within.
    """

    def __init__(self, path: Path, accepted: str) -> None:
        self._path, self._accepted = path, accepted

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        arrow = pyarrow()
        if isinstance(error, arrow.ArrowException | OSError):
            raise ScoringError(f"{self._path}: cannot be read ({error}); {self._accepted} is accepted") from error


def _table_of(batch: Any) -> Any:
    return pyarrow().Table.from_batches([batch])


def _behind(tables: Iterator[Any], rows: int) -> Iterator[Any]:
    """Tables without the first rows of them all."""
    for table in tables:
        skipped = min(rows, table.num_rows)
        rows -= skipped
        if table.num_rows > skipped:
            yield table.slice(skipped)


def _cut(tables: Iterator[Any], rows: int) -> Iterator[Any]:
    """The same rows, so many in each table but the last."""
    waiting: list[Any] = []
    count = 0
    concat = pyarrow().concat_tables
    for table in tables:
        while count + table.num_rows >= rows:
            taken = rows - count
            yield concat([*waiting, table.slice(0, taken)])
            waiting, count, table = [], 0, table.slice(taken)
        if table.num_rows:
            waiting.append(table)
            count += table.num_rows
    if waiting:
        yield concat(waiting)
