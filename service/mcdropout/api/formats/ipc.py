"""Arrow's IPC: a stream or a file of record batches. What its messages declare is checked before any is read.

The numbers of rows, and the sizes that compressed buffers grow to, stand in the messages' metadata (Message.fbs
of https://arrow.apache.org/docs/format/Columnar.html), which pyarrow verifies and does not show.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import flatbuffers.number_types as flat
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from flatbuffers import encode, packer
from flatbuffers.table import Table

from mcdropout.catalogue.checks import RowsError, check_number
from mcdropout.predictions import Pause

MOST_INFLATED_BYTES = 2**25
"""What compressed buffers may grow to together, where a body is smaller itself."""

_MAGIC = b"ARROW1"
_PREAMBLE_BYTES = 8  # of a file: the magic, and two bytes
_MOST_MESSAGES = 1000
_METADATA_BYTES, _METADATA_BYTES_EACH = 2**16, 2**10  # of a message; the latter for each column that is accepted
_SHOWN = 200
# Where a table has its fields, by their order in the schemas of the format.
_FIELD = 4, 6, 8, 10
_HEADER_TYPE, _HEADER = _FIELD[1], _FIELD[2]  # of a Message
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # types of headers
_LENGTH, _BUFFERS, _COMPRESSION = _FIELD[0], _FIELD[2], _FIELD[3]  # of a RecordBatch
_DATA = _FIELD[1]  # of a DictionaryBatch
_LENGTH_BYTES = 8  # before what a compressed buffer holds: how many bytes it grows to, or -1 where it does not
# What is raised of bodies that are damaged.
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error)


@contextmanager
def _reading() -> Iterator[None]:
    """While it is entered, what a damaged body raises is a RowsError."""
    try:
        yield
    except RowsError:
        raise
    except _DAMAGED as error:
        raise RowsError(
            f"the content cannot be read as Arrow ({type(error).__name__}: {str(error)[:_SHOWN]}); a whole IPC stream "
            "or file is accepted"
        ) from error


def open_table(body: bytes, columns: int, most: int | None, pause: Pause) -> pa.RecordBatchReader:
    """What reads a stream or a file, of which by now the schema alone is read.

    Args:
        body: the stream, or the file.
        columns: how many are accepted.
        most: how many rows are accepted; None for any number.
        pause: called between parts.

    Raises:
        RowsError: it is none, or declares too many rows, columns or messages, or what grows too large.
    """
    stream = _stream_of(body)
    with _reading():
        _check(stream, columns, most, pause)
        reader = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(use_threads=False))
        names = [field.name[:_SHOWN] for field in reader.schema]
    if len(names) > columns:
        raise RowsError(f"the content has {len(names)} columns, {names[:5]} first; at most {columns} are accepted")
    return reader


def read_batches(reader: pa.RecordBatchReader, size: int, pause: Pause) -> pa.Table:
    """The table that a stream of so many bytes holds, verified to the last offset.

    Raises:
        RowsError: it is damaged, or has no rows.
    """
    with _reading():
        batches = []
        for batch in reader:
            _verify(batch, max(size, MOST_INFLATED_BYTES))
            batches.append(batch)
            pause()
        table = pa.Table.from_batches(batches, reader.schema)
    if not table.num_rows:
        raise RowsError("the content has no rows; one or more are accepted")
    return table


def _stream_of(body: bytes) -> pa.Buffer:
    """The stream that a body is, or that a file holds behind its magic."""
    if not body.startswith(_MAGIC):
        return pa.py_buffer(body)
    if not body.endswith(_MAGIC):
        raise RowsError("the content begins as an Arrow file and does not end as one; a whole file is accepted")
    return pa.py_buffer(body)[_PREAMBLE_BYTES:]


def _check(stream: pa.Buffer, columns: int, most: int | None, pause: Pause) -> None:
    """Refuse a stream by what its messages declare."""
    most_metadata = _METADATA_BYTES + columns * _METADATA_BYTES_EACH
    most_inflated = max(stream.size, MOST_INFLATED_BYTES)
    rows = inflated = 0
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(stream)):
        if number == _MOST_MESSAGES:
            raise RowsError(
                f"the content has more than {_MOST_MESSAGES} messages; fewer, of larger record batches, are accepted"
            )
        if message.metadata.size > most_metadata:
            raise RowsError(
                f"the content has a {message.type} with metadata of {message.metadata.size} bytes; {most_metadata}, "
                f"for {columns} columns, are accepted"
            )
        kind, header = _header_of(message.metadata)
        if (kind == _SCHEMA) != (number == 0) or kind not in (_SCHEMA, _DICTIONARY, _BATCH):
            raise RowsError(
                f"the content has a {message.type} as its message {number}; a schema, and dictionaries and record "
                "batches behind it, are accepted"
            )
        if kind == _BATCH:
            rows += _length_of(header)
            check_number(rows, most)
        if kind != _SCHEMA:
            batch = header if kind == _BATCH else _table_at(header, _DATA)
            inflated += _inflated(batch, message.body)
            if inflated > most_inflated:
                raise RowsError(
                    f"the content is compressed, {stream.size} bytes that grow to {inflated} or more; at most "
                    f"{most_inflated} are accepted"
                )
        pause()


def _header_of(metadata: pa.Buffer) -> tuple[int, Table]:
    """The type of a message's header, and the header."""
    content = metadata.to_pybytes()
    message = Table(content, encode.Get(packer.uoffset, content, 0))
    kind = message.Get(flat.Uint8Flags, message.Pos + message.Offset(_HEADER_TYPE))
    return kind, _table_at(message, _HEADER)


def _table_at(table: Table, field: int) -> Table:
    """The table that a field of a table is."""
    found = table.Offset(field)
    if not found:
        raise ValueError("a message lacks its header")
    return Table(table.Bytes, table.Indirect(table.Pos + found))


def _length_of(batch: Table) -> int:
    found = batch.Offset(_LENGTH)
    length: int = batch.Get(flat.Int64Flags, batch.Pos + found) if found else 0
    if length < 0:
        raise ValueError(f"a record batch of {length} rows")
    return length


def _inflated(batch: Table, body: pa.Buffer) -> int:
    """How many bytes a batch's compressed buffers grow to together."""
    if not batch.Offset(_COMPRESSION) or not (found := batch.Offset(_BUFFERS)):
        return 0
    start, count = batch.Vector(found), batch.VectorLen(found)
    buffers = np.frombuffer(batch.Bytes, "<i8", 2 * count, start).reshape(count, 2)  # where each begins, and its size
    begins = buffers[buffers[:, 1] >= _LENGTH_BYTES, 0]
    content: npt.NDArray[np.uint8] = np.frombuffer(body, np.uint8)
    lengths = content[begins[:, None] + np.arange(_LENGTH_BYTES)].view("<i8")[:, 0]
    return sum(length for length in lengths.tolist() if length > 0)


def _verify(batch: pa.RecordBatch, most: int) -> None:
    """Raise where an offset, an index or a text of a batch is none.

    Views may show the same long text again and again, which takes long to look through, and longer to copy.
    """
    batch.validate()
    for column in batch.columns:
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        if pa.types.is_string_view(texts.type) and len(texts):
            views = np.frombuffer(texts.buffers()[1], "<i4").reshape(-1, 4)[texts.offset :][: len(texts)]
            total = views[texts.is_valid().to_numpy(zero_copy_only=False), 0].sum(dtype=np.int64)
            if total > most:
                raise RowsError(f"the content has views of {total} bytes of text; at most {most} are accepted")
    batch.validate(full=True)
