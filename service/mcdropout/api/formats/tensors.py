"""Arrays in NumPy's files: rows in, statistics out, exactly as the engine takes and gives them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcdropout.api.formats import answers
from mcdropout.api.formats.format import Format, Written
from mcdropout.api.formats.npy import MOST_HEADER_BYTES, arranged, parts_of, read_header
from mcdropout.api.formats.npz import archive_of, read_archive
from mcdropout.catalogue.arrays import check_size, declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause

_NPY, _NPZ = "application/x-npy", "application/x-npz"


def read_array(body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Rows, ...]:
    """The rows of a model's one input, from a `.npy` of `[rows, ...]`, or of one row without that dimension."""
    if len(inputs) > 1:
        raise RowsError(
            f"the content is one array; for this model a .npz as {_NPZ}, with one for each of "
            f"{[spec.name for spec in inputs]}, is accepted"
        )
    header = read_header(body[:MOST_HEADER_BYTES], "inputs")
    array = declared("inputs", inputs[0], header.dtype, header.shape, most)
    check_size(array, len(body) - header.end)
    values = arranged(np.frombuffer(body, array.dtype, offset=header.end), header)
    return rows_of_arrays([(array, values)], most, pause)


def read_arrays(body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Rows, ...]:
    """The rows of each input, from a `.npz` with an array for each, by its name."""
    return rows_of_arrays(read_archive(body, inputs, most, pause), most, pause)


def write_array(answered: Answered, pause: Pause) -> Written:
    """The statistic that was asked for, the mean where none was; a `.npz` where several were, or samples."""
    names = answered.view.fields or ("mean",)
    if len(set(names)) > 1 or answered.answer.plan.samples:
        return write_arrays(answered, pause, names)
    ((_, array),) = answers.fields_of(answered, names[:1]).items()
    parts: list[bytes] = []
    for part in parts_of(array):
        parts.append(part)
        pause()
    return Written(b"".join(parts), answers.headers_of(answered), _NPY)


def write_arrays(answered: Answered, pause: Pause, names: Sequence[str] | None = None) -> Written:
    """The statistics that were asked for, all that are not null where none were; the passes; and samples."""
    arrays = answers.fields_of(answered, names or answered.view.fields)
    arrays["passes"] = answers.passes_of(answered)
    samples = answers.samples_of(answered)
    if samples is not None:
        arrays["samples"] = samples
    return Written(archive_of(arrays, pause), answers.headers_of(answered), _NPZ)


def _binary(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


NPY = Format(
    name="a .npy of NumPy",
    media_types=(_NPY,),
    read=read_array,
    write=write_array,
    body_schema=_binary("What numpy.save writes: rows of the one input, [rows, ...], or one row."),
    answer_schema=_binary(
        "What numpy.load reads: the one field that was asked for, the mean where none was, [rows, ...]; classes by "
        "their numbers. Where several were, or samples, it is as application/x-npz."
    ),
    takes=lambda inputs: len(inputs) == 1,
    answer_headers=answers.HEADERS,
)

NPZ = Format(
    name="a .npz of NumPy",
    media_types=(_NPZ,),
    read=read_arrays,
    write=write_arrays,
    body_schema=_binary("What numpy.savez writes: an array for each input, by its name."),
    answer_schema=_binary(
        "What numpy.load reads: an array, [rows, ...], for each field that was asked for and is not null, passes, and "
        "samples where these were; classes by their numbers."
    ),
    grows=lambda body: True,
    answer_headers=answers.HEADERS,
)
