"""Arrow: a DataFrame's columns as a stream, whose types the server sees."""

from collections.abc import Sequence
from typing import Any

MEDIA_TYPE = "application/vnd.apache.arrow.stream"


def stream_of(frame: Any, names: Sequence[str]) -> bytes | None:
    """Columns of a DataFrame as a stream; None where pyarrow is not installed, or has no type for one of them.

    Args:
        frame: the DataFrame.
        names: the columns, each of which it has once.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        return None
    places = {str(name): place for place, name in enumerate(frame.columns)}
    try:
        table = pa.table({name: pa.Array.from_pandas(frame.iloc[:, places[name]]) for name in names})
    except (pa.ArrowException, TypeError, ValueError):
        return None
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, table.schema) as writer:
        writer.write_table(table)
    content: bytes = written.getvalue().to_pybytes()
    return content
