"""Arrow: columns of its tables as the rows that a network takes, whatever file or request they came in.

pyarrow is an extra of the package: this is imported where it is needed, and known to be there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mcdropout.catalogue.arrays import declared, rows_of_array
from mcdropout.catalogue.checks import Given, RowsError, accepted_shape, check_values, prepare
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.tables import Binding, Column, Kind, rows_of_cells, shown
from mcdropout.engine.ragged import Rows
from mcdropout.engine.sizes import accepts

_LARGEST = 2**63 - 1


def columns_of(schema: pa.Schema) -> list[Column]:
    """The columns of a table."""
    return [Column(field.name, _kind_of(field.type), str(field.type)) for field in schema]


def _kind_of(kind: pa.DataType) -> Kind:
    kind = getattr(kind, "storage_type", kind)
    if _is_list(kind):
        while _is_list(kind):
            if pa.types.is_fixed_size_list(kind) and not kind.list_size:  # however many take no memory
                return "other"
            kind = kind.value_type
        return "list" if _kind_of_value(kind) in ("number", "truth") else "other"
    return _kind_of_value(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _kind_of_value(kind: pa.DataType) -> Kind:
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_boolean(kind):
        return "truth"
    return "null" if types.is_null(kind) else "other"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def rows_of_table(label: str, table: pa.Table, bindings: Sequence[Binding]) -> tuple[Rows, ...]:
    """For each input the rows of a table, as the network takes them.

    Args:
        label: how messages call these rows.
        table: with the columns that the inputs are read from.
        bindings: which these are.

    Raises:
        RowsError: one cannot be used; of a table of one row it names the column and what is accepted.
    """
    cells = _Cells(table)
    return tuple(
        cells.lists(label, binding) if binding.is_list else rows_of_cells(label, cells, binding, table.num_rows)
        for binding in bindings
    )


@dataclass(frozen=True)
class _Cells:
    table: pa.Table

    def matrix(self, label: str, binding: Binding) -> npt.NDArray[Any]:
        """As `Cells.matrix`."""
        return np.stack([self._column(label, name, binding) for name in binding.names], axis=1)

    def _column(self, label: str, name: str, binding: Binding) -> npt.NDArray[Any]:
        column, spec, codes = self.table.column(name), binding.spec, binding.codes.get(name)
        of_column = f"{label}, in the column {name!r},"
        if codes is not None and not pa.types.is_null(column.type):
            parts = [_coded(of_column, chunk, codes, missing=spec.takes_missing) for chunk in column.chunks]
            return np.concatenate(parts).astype(np.int64 if spec.kind == "i" else np.float64)
        column = _plain(column)
        if column.null_count and not spec.takes_missing:
            raise RowsError(f"{of_column} holds null")
        if pa.types.is_null(column.type):
            return np.full(len(column), np.nan)
        values: npt.NDArray[Any] = column.to_numpy()
        return _whole(of_column, values) if spec.kind == "i" else values

    def record(self, label: str, binding: Binding) -> dict[str, Any]:
        """As `Cells.record`."""
        cells = {name: _plain(self.table.column(name))[0].as_py() for name in binding.names}
        # Older versions give float16 as NumPy has it.
        return {name: cell.item() if isinstance(cell, np.generic) else cell for name, cell in cells.items()}

    def lists(self, label: str, binding: Binding) -> Rows:
        """The rows of a column of lists, or of tensors of one shape.

        Raises:
            RowsError: one cannot be used.
        """
        spec, (name,) = binding.spec, binding.names
        label = f"{label}, in the column {name!r},"
        column = self.table.column(name).combine_chunks()
        sizes, leaf = _flat(label, getattr(column, "storage", column))
        if leaf.null_count and not spec.takes_missing:
            raise RowsError(f"{label} holds null; {accepted_shape(spec)}")
        if isinstance(column.type, pa.FixedShapeTensorType):
            shapes = [_shape_of_tensor(label, column.type, spec)] * len(column)
        else:
            shapes = _shapes(label, sizes, spec)
        values: npt.NDArray[Any] = leaf.to_numpy(zero_copy_only=False)
        if len(set(shapes)) == 1:
            (found,) = rows_of_array(label, spec, values.reshape(len(column), *shapes[0]))
            return found
        declared(label, spec, values.dtype, (1, *shapes[0]), None)
        check_values(label, values, spec, infinite="infinity")
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        rows = [row.reshape(shape) for row, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)]
        return prepare(Given(label, spec, rows, True), lambda: None)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers without a dictionary, whose nulls NumPy would get as numbers, and decimals as floats; text as it is."""
    if pa.types.is_dictionary(column.type) and _kind_of_value(column.type.value_type) != "text":
        column = column.cast(column.type.value_type)
    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column


def _coded(label: str, chunk: pa.Array, codes: Mapping[str, float], *, missing: bool) -> npt.NDArray[np.float64]:
    """`[rows]`, the numbers of texts; NaN for null.

    Raises:
        RowsError: one is no category, or null where that is refused.
    """
    texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.string())
    places = pc.index_in(texts, value_set=pa.array(list(codes), texts.type))
    numbers: npt.NDArray[np.float64] = np.append(list(codes.values()), np.nan)
    found: npt.NDArray[np.float64] = numbers[pc.fill_null(places, len(codes)).to_numpy()]
    unknown = pc.and_(pc.is_valid(texts), pc.is_null(places)).to_numpy(zero_copy_only=False)
    if pa.types.is_dictionary(chunk.type):
        entries = pc.fill_null(chunk.indices.cast(pa.int64()), len(texts)).to_numpy()
        found, unknown = np.append(found, np.nan)[entries], np.append(unknown, False)[entries]
    if unknown.any():
        raise RowsError(f"{label} holds what is none of {shown(list(codes))}")
    if not missing and np.isnan(found).any():
        raise RowsError(f"{label} holds null")
    return found


def _whole(label: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        raise RowsError(f"{label} holds no whole numbers")
    if values.dtype == np.uint64 and values.max(initial=0) > _LARGEST:
        raise RowsError(f"{label} holds {values.max()}, which is out of range")
    return values.astype(np.int64)


def _flat(label: str, column: pa.Array) -> tuple[list[npt.NDArray[np.int64]], pa.Array]:
    """The lengths of the lists of each depth, and what they hold."""
    sizes: list[npt.NDArray[np.int64]] = []
    while _is_list(column.type):
        if column.null_count:
            raise RowsError(f"{label} holds null in place of a list")
        sizes.append(pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64))
        column = column.flatten()
    return sizes, column


def _shape_of_tensor(label: str, kind: pa.FixedShapeTensorType, spec: Input) -> tuple[int, ...]:
    """The shape of tensors that are rows of an input."""
    shape, order = tuple(kind.shape), kind.permutation
    if order is not None and list(order) != sorted(order):
        raise RowsError(f"{label} holds tensors whose dimensions are permuted, {order}; those in order are accepted")
    if not _fits(shape, spec):
        raise RowsError(f"{label} holds tensors of the shape {list(shape)}; {accepted_shape(spec)}")
    return shape


def _shapes(label: str, sizes: Sequence[npt.NDArray[np.int64]], spec: Input) -> list[tuple[int, ...]]:
    """The shape of each row, by the lengths of its lists; of one list of all its values, that of the input.

    Raises:
        RowsError: a row is ragged, or no row of the input.
    """
    ends = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in sizes]
    whole = None if spec.varies else math.prod(size for size in spec.shape if isinstance(size, int))
    shapes: list[tuple[int, ...]] = []
    for row in range(len(sizes[0])):
        shape: tuple[int, ...] = ()
        start, stop = row, row + 1
        for lengths, end in zip(sizes, ends, strict=True):
            these = lengths[start:stop]
            if not these.size or (these != these[0]).any():
                raise RowsError(f"{label} is ragged: its lists differ in length; {accepted_shape(spec)}")
            shape, start, stop = (*shape, int(these[0])), int(end[start]), int(end[stop])
        if len(shape) == 1 and shape[0] == whole:
            shape = tuple(map(int, spec.shape))
        if not _fits(shape, spec):
            raise RowsError(f"{label} holds lists of the shape {list(shape)}; {accepted_shape(spec)}")
        shapes.append(shape)
    return shapes


def _fits(shape: Sequence[int], spec: Input) -> bool:
    return len(shape) == len(spec.shape) and all(map(accepts, spec.dimensions, shape))
