"""Parquet, Arrow and Feather files, by pyarrow: an extra of the package, imported when the first is opened."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.arrays import declared
from mcdropout.catalogue.checks import Given, RowsError, accepted_shape, check_bounds, prepare
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.engine.sizes import accepts
from mcdropout.scoring.chunks import called
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.pyarrow import pyarrow
from mcdropout.scoring.sources import stamp_of
from mcdropout.scoring.sources.arrays import rows_of_array
from mcdropout.scoring.sources.tables import Binding, Column, Kind, bound, rows_of_cells

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
        columns = [Column(field.name, _kind_of(field.type), str(field.type)) for field in schema]
        self._bindings = bound(path, columns, takes, keep)
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
        cells = _Cells(self.table.slice(start, stop - start))
        return tuple(
            cells.lists(label, binding) if binding.is_list else rows_of_cells(label, cells, binding, stop - start)
            for binding in self.bindings
        )


@dataclass(frozen=True)
class _Cells:
    table: Any

    def matrix(self, label: str, binding: Binding) -> npt.NDArray[Any]:
        """As `Cells.matrix`."""
        columns = [self._column(label, name, binding) for name in binding.names]
        if binding.spec.kind == "i" and any(column.dtype.kind not in "iu" for column in columns):
            raise RowsError(f"{label} holds no whole numbers")
        return np.stack(columns, axis=1)

    def _column(self, label: str, name: str, binding: Binding) -> npt.NDArray[Any]:
        column, spec, codes = self.table.column(name), binding.spec, binding.codes.get(name)
        if column.null_count and not spec.takes_missing:
            raise RowsError(f"{label} has null in the column {name!r}")
        if codes is not None:
            try:
                return np.array([np.nan if cell is None else codes[cell] for cell in column.to_pylist()], np.float64)
            except KeyError as error:
                raise RowsError(f"{label} has {error} in the column {name!r}") from error
        if pyarrow().types.is_decimal(column.type):
            column = column.cast(pyarrow().float64())
        values: npt.NDArray[Any] = column.to_numpy()
        if spec.kind != "f" and codes is None:
            return values
        return values.astype(np.float64)

    def record(self, label: str, binding: Binding) -> dict[str, Any]:
        """As `Cells.record`."""
        found: dict[str, Any] = {}
        for name in binding.names:
            value = self.table.column(name)[0].as_py()
            is_number = isinstance(value, bool | int | float | str) or value is None
            found[name] = value if is_number else float(value)  # a decimal
        return found

    def lists(self, label: str, binding: Binding) -> Rows:
        """The rows of a column of lists.

        Raises:
            RowsError: one cannot be used.
        """
        spec, (name,) = binding.spec, binding.names
        label = f"{label}, in the column {name!r},"
        column = self.table.column(name).combine_chunks()
        column = getattr(column, "storage", column)  # of tensors of one shape
        if len(column) == 1:
            return _row_of_list(label, spec, column[0].as_py())
        sizes, leaf = _flat(label, column)
        if leaf.null_count and not spec.takes_missing:
            raise RowsError(f"{label} holds null")
        values = leaf.to_numpy(zero_copy_only=False)
        if not spec.varies:
            if not sizes or any(len(np.unique(each)) > 1 for each in sizes):
                raise RowsError(f"{label} holds lists of several lengths; {accepted_shape(spec)}")
            shape = [int(each[0]) for each in sizes]
            wanted = _fixed(spec)
            rows = values.reshape(len(column), *(wanted if shape == [math.prod(wanted)] else shape))
            (found,) = rows_of_array(label, spec, rows)
            return found
        if len(sizes) > 1:
            parts = [_row_of_list(label, spec, one) for one in column.to_pylist()]
            return [np.asarray(part)[0] for part in parts]
        (lengths,) = sizes
        if not all(accepts(spec.dimensions[0], int(length)) for length in np.unique(lengths)):
            raise RowsError(f"{label} holds lists of {lengths.min()} to {lengths.max()}; {accepted_shape(spec)}")
        declared(label, spec, values.dtype, (1, int(lengths[0])), None)
        if spec.kind != "b":
            check_bounds(label, values, spec, infinite="infinity")
        one_each = np.split(values, np.cumsum(lengths)[:-1])
        return prepare(Given(label, spec, np.stack(one_each) if len(set(lengths)) == 1 else one_each, True), _go_on)


def _fixed(spec: Input) -> tuple[int, ...]:
    """The shape of a row, where it differs from none."""
    return tuple(size for size in spec.shape if isinstance(size, int))


def _go_on() -> None:
    pass


def _row_of_list(label: str, spec: Input, value: Any) -> Rows:
    """The one row that nested lists are, `[1, *shape]`."""
    if value is None:
        raise RowsError(f"{label} is null; {accepted_shape(spec)}")
    try:
        row = np.asarray(value)
        if row.dtype == object and spec.takes_missing:
            row = row.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise RowsError(f"{label} is ragged: its lists differ in length; {accepted_shape(spec)}") from error
    if row.dtype == object:
        raise RowsError(f"{label} holds null, or lists of several lengths; {accepted_shape(spec)}")
    if not row.size:  # NumPy takes it for floats
        row = row.astype(spec.array_dtype)
    if not spec.varies and row.ndim == 1 and row.size == math.prod(_fixed(spec)):
        row = row.reshape(_fixed(spec))
    (found,) = rows_of_array(label, spec, row[None])
    return found


def _flat(label: str, column: Any) -> tuple[list[npt.NDArray[np.int64]], Any]:
    """The lengths of the lists of each depth, and what they hold."""
    compute, sizes = pyarrow("compute"), []
    while _is_list(column.type):
        if column.null_count:
            raise RowsError(f"{label} holds null in place of a list")
        sizes.append(compute.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64))
        column = column.flatten()
    return sizes, column


def _is_list(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _kind_of(kind: Any) -> Kind:
    types = pyarrow().types
    kind = getattr(kind, "storage_type", kind)
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_boolean(kind):
        return "truth"
    return "list" if _is_list(kind) else "other"


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
