"""Raw values, as a tensor lies in memory: headers say its shape and its dtype."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from mcdropout.api.formats.format import Format, Header
from mcdropout.catalogue.arrays import check_size, declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Pause

SHAPE = Header("X-Shape", "The sizes of the tensor, the rows first, with commas between.", "4,1,28,28")
DTYPE = Header("X-Dtype", "The dtype of its values, little-endian.", "float32")

_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float64", "float32", "float16", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}
_MOST_DIGITS, _MOST_SIZES, _SHOWN = 18, 64, 100
_SIZE = re.compile(rf"\s*[0-9]{{1,{_MOST_DIGITS}}}\s*", re.ASCII)


def read(
    body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause, *, headers: Mapping[str, str]
) -> tuple[Rows, ...]:
    """The rows of a model's one input, `[rows, ...]`, or one row without that dimension."""
    if len(inputs) > 1:
        raise RowsError(
            "the content is one tensor; for this model a .npz as application/x-npz, with an array for each of "
            f"{[spec.name for spec in inputs]}, is accepted"
        )
    array = declared("inputs", inputs[0], _dtype(headers), _shape(headers), most)
    check_size(array, len(body))
    values = np.frombuffer(body, array.dtype).reshape(array.shape)
    return rows_of_arrays([(array, values)], most, pause)


def _shape(headers: Mapping[str, str]) -> list[int]:
    text = _required(headers, SHAPE)
    sizes = text.split(",") if text.strip() else []
    if len(sizes) > _MOST_SIZES or not all(map(_SIZE.fullmatch, sizes)):
        raise RowsError(
            f"{SHAPE.name} is {text[:_SHOWN]!r}; sizes with commas between, as {SHAPE.example}, are accepted"
        )
    return [int(size) for size in sizes]


def _dtype(headers: Mapping[str, str]) -> np.dtype[np.generic]:
    text = _required(headers, DTYPE)
    found = _DTYPES.get(text.strip().lower())
    if found is None:
        raise RowsError(f"{DTYPE.name} is {text[:_SHOWN]!r}; one of {', '.join(_DTYPES)} is accepted")
    return found


def _required(headers: Mapping[str, str], header: Header) -> str:
    if header.name not in headers:
        raise RowsError(
            f"the header {header.name} is missing, by which application/octet-stream is read; one such as "
            f"{header.name}: {header.example} is accepted"
        )
    return headers[header.name]


FORMAT = Format(
    name="raw values",
    media_types=("application/octet-stream",),
    read=read,
    write=None,
    body_schema={
        "type": "string",
        "format": "binary",
        "description": "The values of the one input as they lie in memory, the last dimension fastest, little-endian, "
        "of the shape and the dtype that X-Shape and X-Dtype say.",
    },
    headers=(SHAPE, DTYPE),
    takes=lambda inputs: len(inputs) == 1,
)
