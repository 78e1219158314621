"""Parquet, Arrow and Feather: a column for each number of a row, lists for maps, and null for what is not known."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.scoring.layout import Item, Layout, Values, known_values
from mcdropout.scoring.pyarrow import pyarrow
from mcdropout.scoring.scorer import Scored

_GROUP_ROWS, _GROUP_BYTES = 2**16, 2**25  # of a row group, about


class _ArrowParts:
    """What both have in common: parts are Arrow files."""

    suffix = ".arrow"

    def __init__(self, layout: Layout, about: Mapping[str, str]) -> None:
        self._layout = layout
        arrow = pyarrow()
        fields = [arrow.field(name, _type_of(kind)) for name, kind in layout.kept.items()]
        fields += [arrow.field(name, _type_of_item(item)) for item in layout.in_order for name in item.columns]
        self._schema = arrow.schema(fields, {f"mcdropout.{name}": value for name, value in about.items()})

    def write(self, scored: Scored, path: Path) -> None:
        """As `Output.write`."""
        arrow = pyarrow()
        columns = [_kept(scored.kept[name], kind) for name, kind in self._layout.kept.items()]
        columns += [_column(item, values, scored.known) for _, item, values in self._layout.columns(scored)]
        table = arrow.Table.from_arrays(columns, schema=self._schema)
        with arrow.OSFile(str(path), "wb") as file, pyarrow("ipc").new_file(file, self._schema) as writer:
            writer.write_table(table)

    def _grouped(self, parts: Sequence[Path]) -> Iterator[Any]:
        """The rows of parts, in tables of some size."""
        arrow, waiting, rows, size = pyarrow(), [], 0, 0
        for part in parts:
            with arrow.OSFile(str(part)) as file:
                table = pyarrow("ipc").open_file(file).read_all()
            waiting.append(table)
            rows, size = rows + table.num_rows, size + table.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                yield arrow.concat_tables(waiting).combine_chunks()
                waiting, rows, size = [], 0, 0
        if waiting:
            yield arrow.concat_tables(waiting).combine_chunks()


class ParquetOutput(_ArrowParts):
    """Writes Parquet."""

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """As `Output.join`."""
        with pyarrow("parquet").ParquetWriter(path, self._schema) as writer:
            for table in self._grouped(parts):
                writer.write_table(table, row_group_size=max(1, table.num_rows))


class ArrowOutput(_ArrowParts):
    """Writes Arrow's file format, which is Feather's too."""

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """As `Output.join`."""
        with pyarrow().OSFile(str(path), "wb") as file, pyarrow("ipc").new_file(file, self._schema) as writer:
            for table in self._grouped(parts):
                writer.write_table(table)


def _type_of(kind: Any) -> Any:
    """The Arrow type of a column that is kept."""
    arrow = pyarrow()
    if kind is str or (isinstance(kind, np.dtype) and kind.kind == "U"):
        return arrow.string()
    return arrow.from_numpy_dtype(kind) if isinstance(kind, np.dtype) else kind


def _type_of_item(item: Item) -> Any:
    arrow = pyarrow()
    kind = arrow.string() if item.labels is not None else arrow.from_numpy_dtype(item.dtype)
    for _ in range(item.depth):
        kind = arrow.list_(kind)
    return kind


def _kept(values: Any, kind: Any) -> Any:
    arrow = pyarrow()
    if isinstance(values, arrow.ChunkedArray):
        return values
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return arrow.array(values, _type_of(kind))


def _column(item: Item, values: Values, known: npt.NDArray[np.bool_]) -> Any:
    arrow = pyarrow()
    if item.depth:
        return _lists(item, values, known)
    numbers = np.asarray(values)
    if item.labels is not None:
        return arrow.array(np.array(item.labels, object)[numbers], arrow.string(), mask=~known)
    return arrow.array(np.ascontiguousarray(numbers), mask=~known_values(numbers, known))


def _lists(item: Item, values: Values, known: npt.NDArray[np.bool_]) -> Any:
    """Nested lists, one for each row; null where there is no answer."""
    arrow = pyarrow()
    empty = np.zeros((0,) * item.depth, item.dtype)
    rows = [np.asarray(row) if is_known else empty for row, is_known in zip(values, known, strict=True)]
    flat = np.concatenate([np.ravel(row) for row in rows]) if rows else np.zeros(0, item.dtype)
    found = arrow.array(flat, mask=~known_values(flat, np.ones(len(flat), bool)))
    for depth in reversed(range(item.depth)):
        lengths = np.concatenate(
            [np.full(int(np.prod(row.shape[:depth], dtype=np.int64)), row.shape[depth], np.int64) for row in rows]
        )
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        mask = arrow.array(~known) if depth == 0 and not known.all() else None
        found = arrow.ListArray.from_arrays(arrow.array(offsets), found, mask=mask)
    return found
