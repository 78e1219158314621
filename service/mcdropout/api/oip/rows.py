"""Rows: from a request's tensors to what a network takes. What they declare is checked before any memory is taken."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.api.oip.datatypes import BF16, dtype_of
from mcdropout.api.oip.tensor import Listed, Packed, Tensor, Typed
from mcdropout.catalogue.arrays import Declared, check_size, declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.rows import first_unfit, list_parts
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Pause

_SHOWN, _MOST_NAMES, _MOST_SIZES, _MOST_SIZE = 100, 10, 64, 2**48
_TAKEN = {"f": "iuf", "i": "iu", "u": "iu", "b": "biu"}  # by a datatype's kind, those of the numbers that JSON may have
_ACCEPTED = {"f": "numbers are", "b": "true and false, or 1 and 0, are"}
_OPENING = re.compile(rb"(?:[ \t\n\r]*\[){0,64}")
# By a datatype, the field of typed contents that has its values; by a field, the dtype of these.
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_CONTENTS = {
    "bool_contents": np.bool_,
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}
_PART_NUMBERS = 2**14


def rows_of(tensors: Sequence[Tensor], inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Rows, ...]:
    """The rows that tensors hold, for each input `[rows, ...]`, as the network takes them.

    Args:
        tensors: one for each input, by its name, in any order.
        inputs: what the model takes.
        most: how many rows are accepted; None for any number.
        pause: called between parts.

    Raises:
        RowsError: they hold something else.
    """
    names = [spec.name for spec in inputs]
    if sorted(tensor.name for tensor in tensors) != sorted(names):
        raise RowsError(f"{_misnamed([tensor.name for tensor in tensors], names)}; one for each of {names} is accepted")
    by_name = {tensor.name: tensor for tensor in tensors}
    pairs = [(_declared(by_name[spec.name], spec, most), by_name[spec.name]) for spec in inputs]
    return rows_of_arrays([(array, _values_of(array, tensor, pause)) for array, tensor in pairs], most, pause)


def _misnamed(given: Sequence[str], names: Sequence[str]) -> str:
    """What is wrong with the names of a request's tensors."""
    lacks = [name for name in names if name not in given]
    unknown = [name[:_SHOWN] for name in given if name not in names]
    wrong = {
        "lacks": lacks,
        "holds the unknown": unknown[:_MOST_NAMES],
        "has several times": [name for name in names if given.count(name) > 1],
    }
    found = " and ".join(f"{words} {some}" for words, some in wrong.items() if some)
    return f"inputs {found}{f' and {len(unknown) - _MOST_NAMES} more' if len(unknown) > _MOST_NAMES else ''}"


def _declared(tensor: Tensor, spec: Input, most: int | None) -> Declared:
    if len(tensor.shape) > _MOST_SIZES or not all(0 <= size <= _MOST_SIZE for size in tensor.shape):
        raise RowsError(
            f"inputs.{tensor.name} has the shape {list(tensor.shape[:_MOST_SIZES])}; sizes from 0 on are accepted"
        )
    return declared(f"inputs.{tensor.name}", spec, dtype_of(tensor), tensor.shape, most)


def _values_of(array: Declared, tensor: Tensor, pause: Pause) -> npt.NDArray[Any]:
    """The values of a tensor, in its shape."""
    values = tensor.values
    if isinstance(values, Packed):
        found = _unpacked(array, tensor, values)
    elif isinstance(values, Typed):
        found = _of_contents(array, tensor, values, pause)
    else:
        found = _of_lists(array, values, pause)
    return found.reshape(array.shape)


def _unpacked(array: Declared, tensor: Tensor, values: Packed) -> npt.NDArray[Any]:
    if tensor.datatype != BF16:
        check_size(array, len(values.content))
        return np.frombuffer(values.content, array.dtype)
    size = 2 * math.prod(array.shape)
    if len(values.content) != size:
        raise RowsError(f"{array.label} has {len(values.content)} bytes of values; {size}, for BF16, are accepted")
    halves = np.frombuffer(values.content, "<u2")  # the upper ones of as many numbers of float32
    return (halves.astype("<u4") << 16).view("<f4")


def _of_contents(array: Declared, tensor: Tensor, values: Typed, pause: Pause) -> npt.NDArray[Any]:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise RowsError(f"{array.label} has typed contents; for {tensor.datatype} raw_input_contents are accepted")
    if set(values.contents) - {field}:
        raise RowsError(
            f"{array.label} has {' and '.join(sorted(values.contents))}; for {tensor.datatype} {field} is accepted"
        )
    contents = values.contents.get(field, ())
    _check_count(array, len(contents))
    found: npt.NDArray[Any] = np.empty(len(contents), _CONTENTS[field])
    for start in range(0, len(contents), _PART_NUMBERS):
        found[start : start + _PART_NUMBERS] = contents[start : start + _PART_NUMBERS]
        pause()
    return _within(array, found)


def _of_lists(array: Declared, values: list[Any] | Listed, pause: Pause) -> npt.NDArray[Any]:
    """Values of JSON: one list of them all, or lists nested as the shape is."""
    found: list[npt.NDArray[Any]] = []
    filled = 0
    for part, words in _parts(array, values):
        found.append(_numbers(array, part, words).ravel())
        filled += found[-1].size
        if filled > math.prod(array.shape):
            break
        pause()
    _check_count(array, filled)
    return np.concatenate(found)


def _parts(array: Declared, values: list[Any] | Listed) -> Iterator[tuple[list[Any], bool]]:
    """Lists that together are all of it, and whether one may hold true or false."""
    if isinstance(values, list):
        yield values, True
        return
    text = values.text
    depth = _OPENING.match(text)[0].count(b"[") - 1  # type: ignore[index]  # (it matches nothing, too)
    words = b"t" in text or b"f" in text
    try:
        for part in list_parts(text, 1, len(text) - 1, depth):
            yield orjson.loads(b"[" + part + b"]"), words
    except (RowsError, orjson.JSONDecodeError) as error:
        raise RowsError(
            f"the data of {array.label} is no list of values, or of lists nested as its shape is ({error}); one is "
            "accepted"
        ) from error


def _numbers(array: Declared, part: list[Any], words: bool) -> npt.NDArray[Any]:
    try:
        numbers = np.asarray(part)
    except ValueError as error:
        raise RowsError(f"the data of {array.label} is ragged; {_accepted_lists(array)}") from error
    if not numbers.size:
        return np.empty(0, array.dtype)
    missing = array.spec.takes_missing and array.dtype.kind == "f"
    kind = array.dtype.kind.replace("u", "i")
    # Among numbers NumPy takes true for 1.
    mixed = words and kind != "b" and any(letter in orjson.dumps(part) for letter in (b"t", b"f"))
    unfit = mixed or numbers.dtype.kind not in _TAKEN[array.dtype.kind]
    if unfit and (found := first_unfit(part, kind, missing=missing)):
        called = _ACCEPTED.get(kind, "whole numbers, written as 1 and not as 1.0, are")
        raise RowsError(f"the data of {array.label} holds {found}; {called} accepted")
    if numbers.dtype == object:
        numbers = numbers.astype(np.float64)
    if numbers.ndim > 1 and numbers.shape[1:] != array.shape[1:]:
        raise RowsError(f"the data of {array.label} has the shape {list(numbers.shape)}; {_accepted_lists(array)}")
    return _within(array, numbers)


def _within(array: Declared, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in the dtype that was declared; others as JSON has them, which is what /predict reads."""
    if array.dtype.kind not in "iu":
        return numbers
    if numbers.size:
        limits = np.iinfo(array.dtype)
        least, most = numbers.min().item(), numbers.max().item()
        if least < limits.min or most > limits.max:
            raise RowsError(
                f"{array.label} holds values from {least} to {most}; {limits.min} to {limits.max}, of {array.dtype}, "
                "are accepted"
            )
    return numbers.astype(array.dtype)


def _check_count(array: Declared, count: int) -> None:
    wanted = math.prod(array.shape)
    if count != wanted:
        more = " or more" if count > wanted else ""
        raise RowsError(
            f"{array.label} has {count}{more} values; {wanted}, for the shape {list(array.shape)}, are accepted"
        )


def _accepted_lists(array: Declared) -> str:
    return f"one list of all values, or lists of the shape {list(array.shape)}, are accepted"
