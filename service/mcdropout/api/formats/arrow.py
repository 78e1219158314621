"""Arrow: tables as streams or files of record batches, a column for each column of a row in, for each statistic out.

pyarrow is an extra of the package, imported when the first body or answer comes.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mcdropout.api.formats import answers
from mcdropout.api.formats.format import Format, Written
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause

if TYPE_CHECKING:
    import pyarrow as pa

_STREAM, _FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
_PART_BYTES = 2**18


def is_installed() -> bool:
    """Whether there is what reads and writes it."""
    return find_spec("pyarrow") is not None


def read(body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Rows, ...]:
    """The rows of each input, from the columns that it names, or from the column of its name.

    Where one cannot be used, it is looked for by halves, so that the message names it.
    """
    from mcdropout.api.formats.ipc import open_table, read_batches
    from mcdropout.catalogue.arrow import columns_of, rows_of_table
    from mcdropout.catalogue.tables import bound, shown

    reader = open_table(body, sum(map(_columns, inputs)), most, pause)
    bindings = bound("the content", columns_of(reader.schema), inputs)
    wanted = list(dict.fromkeys(name for binding in bindings for name in binding.names))
    if more := [name for name in reader.schema.names if name not in wanted]:
        raise RowsError(f"the content holds the unknown columns {shown(more)}; {shown(wanted)} are accepted")
    table = read_batches(reader, len(body), pause)
    try:
        return rows_of_table("inputs", table, bindings)
    except RowsError:
        start, stop = 0, table.num_rows
        while stop - start > 1:
            middle = (start + stop) // 2
            pause()
            try:
                rows_of_table("inputs", table.slice(start, middle - start), bindings)
                start = middle
            except RowsError:
                stop = middle
        rows_of_table(f"row {start} of inputs", table.slice(start, 1), bindings)
        raise


def _columns(spec: Input) -> int:
    """How many columns an input may be read from at most."""
    return int(spec.shape[0]) if len(spec.shape) == 1 and not spec.varies else 1


def write(kind: Literal["stream", "file"], answered: Answered, pause: Pause) -> Written:
    """The statistics that were asked for, all that are not null where none were; the passes; and samples."""
    import pyarrow as pa

    arrays = answers.fields_of(answered, answered.view.fields)
    arrays["passes"] = answers.passes_of(answered)
    samples = answers.samples_of(answered)
    if samples is not None:
        arrays["samples"] = samples
    labels = {name: answers.labels_of(answered.model, name) for name in arrays}
    schema = pa.schema([(name, _type_of(array, labels[name])) for name, array in arrays.items()], _metadata(answered))
    written = pa.BufferOutputStream()
    step = max(1, _PART_BYTES * answered.rows // sum(array.nbytes for array in arrays.values()))
    with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(written, schema) as writer:
        for start in range(0, answered.rows, step):
            columns = [_column(array[start : start + step], labels[name]) for name, array in arrays.items()]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            pause()
    return Written(written.getvalue().to_pybytes(), answers.headers_of(answered))


def _metadata(answered: Answered) -> dict[str, str]:
    """What the schema says of an answer, by the names that JSON has for it."""
    return {f"mcdropout.{name}": value for name, value in answers.about(answered).items()}


def _type_of(array: npt.NDArray[Any], labels: Sequence[str] | None) -> "pa.DataType":
    """Of numbers or labels, or of lists of as many as a row has, the first dimension outermost."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(array.dtype) if labels is None else pa.string()
    for size in reversed(array.shape[1:]):
        kind = pa.list_(kind, size)
    return kind


def _column(array: npt.NDArray[Any], labels: Sequence[str] | None) -> "pa.Array":
    """Some rows; null where a number is NaN, as it is of a single pass."""
    import pyarrow as pa

    flat = np.ascontiguousarray(array).ravel()
    if labels is not None:
        column = pa.array(labels, pa.string()).take(pa.array(flat))
    else:
        column = pa.array(flat, from_pandas=True)
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _format(kind: Literal["stream", "file"], media_type: str) -> Format:
    def write_kind(answered: Answered, pause: Pause) -> Written:
        return write(kind, answered, pause)

    return Format(
        name=f"an Arrow {kind}",
        media_types=(media_type,),
        read=read,
        write=write_kind,
        body_schema={
            "type": "string",
            "format": "binary",
            "description": f"An IPC {kind} of Apache Arrow: for an input that has columns, these by their names, in "
            "any order; for another a column of its name, of numbers, lists or tensors. Buffers may be compressed.",
        },
        answer_schema={
            "type": "string",
            "format": "binary",
            "description": f"An IPC {kind} of Apache Arrow: a column for each field that was asked for and is not "
            "null, passes, and samples where these were; lists of a fixed size for what is more than a number, classes "
            "by their labels. The schema's metadata says what the headers do.",
        },
        grows=lambda body: True,
        answer_headers=answers.HEADERS,
    )


STREAM, FILE = _format("stream", _STREAM), _format("file", _FILE)
