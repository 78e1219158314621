"""Rows: from JSON, `{"inputs": ...}`, to what a network takes. A request and a bundle's example are read alike."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.catalogue.arrays import rows_of_arrays
from mcdropout.catalogue.checks import (
    TRUTHS,
    Given,
    accepted_shape,
    check_bounds,
    check_number,
    check_together,
    check_values,
    prepare,
)
from mcdropout.catalogue.checks import RowsError as RowsError
from mcdropout.catalogue.columns import are_records, rows_of_records
from mcdropout.catalogue.hooks import Hook, is_raw, rows_of_raw
from mcdropout.catalogue.images import are_images, images_of
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.json_arrays import arrays_of
from mcdropout.engine.ragged import Rows
from mcdropout.engine.sizes import accepts

_WORDS = (b"true", b"false")
_SPACE = rb"[ \t\n\r]*"  # JSON's, which is not Python's
_OPENING = re.compile(_SPACE.join([b"", rb"\{", b'"inputs"', b":", rb"\["]))
_CLOSING = re.compile(_SPACE.join([rb"\]", rb"\}", rb"\Z"]))
# The same where the rows of the one input stand under its name.
_OPENING_BY_NAME = re.compile(_SPACE.join([b"", rb"\{", b'"inputs"', b":", rb"\{", rb'"([^"\\]*)"', b":", rb"\["]))
_CLOSING_BY_NAME = re.compile(_SPACE.join([rb"\]", rb"\}", rb"\}", rb"\Z"]))
_CLOSING_BYTES = 64
# Of what the most rows hold, so much more is parsed, to tell what is wrong with it; and some, whatever these hold.
_MOST_MORE, _MOST_BESIDE = 2, 1000
_PART_BYTES = 32 * 1024
# By the kind of an input's dtype: the kinds of array that its values make, and what they are called.
_TAKEN = {
    "f": ("iuf", "numbers are accepted"),
    "i": ("iu", "whole numbers, written as 1 and not as 1.0, are accepted"),
    "b": ("biu", TRUTHS),
}


_TOO_DEEP = "the content nests lists or objects hundreds deep; lists as deep as the inputs have dimensions are accepted"
_SHOWN, _MOST_NAMES = 100, 10  # characters of what a client sent, and how many names


def read_rows(
    text: bytes,
    inputs: Sequence[Input],
    most: int | None = None,
    pause: Callable[[], None] = lambda: None,
    *,
    hook: Hook | None = None,
) -> tuple[Rows, ...]:
    """The rows that a JSON text holds, as the network takes them.

    Its `inputs` is an object that holds the rows of each input by its name, or, where there is one input, its rows.
    Rows are one row, or a list of them. A row is nested lists; or, where the input has columns, an object of
    these; or, where it is made of images, `{"b64": ...}`; or what the model's own hook takes.

    Args:
        text: the JSON.
        inputs: what the model takes.
        most: how many rows are accepted; None for any number.
        pause: called between parts, where they take long.
        hook: makes rows of text and objects; None where the model has none.

    Returns:
        For each input `[rows, *shape]`, finite, in its dtype; a row after another where their sizes differ.

    Raises:
        RowsError: the text holds something else.
    """
    if len(text) > _PART_BYTES:  # what is small cannot hold much
        check_bulk(text, inputs, most)
    if hook is None and (arrays := arrays_of(text, inputs)) is not None:
        return rows_of_arrays(arrays, most, pause)
    try:
        return _rows_of(orjson.loads(text), text, inputs, most, pause, hook)
    except RecursionError as error:
        raise RowsError(_TOO_DEEP) from error
    except orjson.JSONDecodeError as error:
        if "depth limit" in str(error):
            raise RowsError(_TOO_DEEP) from error
        raise RowsError(
            f"the content is no JSON: {error}; JSON is accepted, which has no NaN and no Infinity"
        ) from error


def _rows_of(
    content: Any,
    text: bytes,
    inputs: Sequence[Input],
    most: int | None,
    pause: Callable[[], None],
    hook: Hook | None,
) -> tuple[Rows, ...]:
    """As `read_rows`, of what the text holds."""
    if not isinstance(content, dict) or set(content) != {"inputs"}:
        found = f"the fields {_named(content)}" if isinstance(content, dict) else type(content).__name__
        form = "[...]" if len(inputs) == 1 else _form(inputs)
        raise RowsError(f'the content holds {found}; an object {{"inputs": {form}}} is accepted')
    if hook is not None and is_raw(content["inputs"]) and not _is_by_name(content["inputs"], inputs):
        return rows_of_raw(hook, content["inputs"], inputs, most, pause)
    words = any(word in text for word in _WORDS)
    values = _by_input(content["inputs"], inputs)
    for _, value, spec in values:
        if isinstance(value, list) and (are_records(value, spec) or are_images(value)):
            check_number(len(value), most)  # before they are read one by one
    given = [_take(label, value, spec, words, pause) for label, value, spec in values]
    check_together(given, most)
    return tuple(prepare(part, pause) for part in given)


def _is_by_name(given: Any, inputs: Sequence[Input]) -> bool:
    """Whether an object holds the rows of each input by its name."""
    return isinstance(given, dict) and set(given) == {spec.name for spec in inputs}


def check_bulk(text: bytes, inputs: Sequence[Input], most: int | None) -> None:
    """Refuse what holds far more than so many rows could, before it is parsed: that may take 50 times its memory."""
    if most is None:
        return
    values, lists = map(sum, zip(*(_bulk_of_row(spec) for spec in inputs), strict=True))
    for found, of_row, called in (
        (text.count(b",") + 1, values + lists, "values"),
        (text.count(b"[") + text.count(b"{"), lists, "lists and objects"),
    ):
        accepted = _MOST_MORE * most * of_row + _MOST_BESIDE
        if found > accepted:
            raise RowsError(
                f"the content holds {found} {called}, more than {_MOST_MORE} times those of {most} rows; 1 to {most} "
                "rows are accepted"
            )


def _bulk_of_row(spec: Input) -> tuple[int, int]:
    """How many values, and how many lists, a row of an input holds at most."""
    sizes = [size if isinstance(size, int) else size.most for size in spec.dimensions]
    return math.prod(sizes), sum(math.prod(sizes[:depth]) for depth in range(len(sizes)))


def read_many_rows(
    text: bytes, inputs: Sequence[Input], most: int | None, pause: Callable[[], None], *, hook: Hook | None = None
) -> tuple[Rows, ...]:
    """What `read_rows` returns and raises, read some rows at a time, with pauses.

    Parsing a long text in one go keeps every other thread waiting: 30 ms for 1,000 images of 784 numbers.
    """
    if len(text) <= _PART_BYTES or hook is not None:
        return read_rows(text, inputs, most, pause, hook=hook)
    check_bulk(text, inputs, most)
    rows: list[Rows] = []
    count = 0
    try:
        for part in _parts(text, inputs):
            rows += read_rows(b'{"inputs":[' + part + b"]}", inputs)
            count += len(rows[-1])
            if most is not None and count > most:
                raise RowsError("these are too many")
            pause()
    except RowsError:  # the message is to be of the whole text
        rows = []
    return (behind_one_another(rows),) if rows else read_rows(text, inputs, most, pause)


def behind_one_another(parts: Sequence[Rows]) -> Rows:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for part in parts for row in part]


def _parts(text: bytes, inputs: Sequence[Input]) -> Iterator[bytes]:
    """The rows of a text that is a list of them, some at a time; nothing where it is none, or something else.

    Where each part is a list of rows, so is the whole: between two brackets of it there are lists of numbers only.
    """
    opening, closed = _OPENING.match(text), _CLOSING
    if opening is None and (by_name := _OPENING_BY_NAME.match(text)) and by_name[1] == inputs[0].name.encode():
        opening, closed = by_name, _CLOSING_BY_NAME
    closing = closed.search(text, max(0, len(text) - _CLOSING_BYTES))
    if len(inputs) > 1 or opening is None or closing is None or text.find(b'"', opening.end()) >= 0:
        return
    yield from list_parts(text, opening.end(), closing.start(), len(inputs[0].shape))


def list_parts(text: bytes, start: int, end: int, depth: int) -> Iterator[bytes]:
    """The entries of a list, some at a time: parts of a text that together, with commas between, are all of it.

    Args:
        text: what holds the list.
        start, end: behind its opening, and before its closing bracket.
        depth: of the lists that its entries are; 0 for numbers.

    Raises:
        RowsError: what begins somewhere is no such entry.
    """
    begins = re.compile((_SPACE + rb"\[") * depth)
    between = re.compile((rb"\]" + _SPACE) * depth + b",")
    while begins.match(text, start, end) is not None:
        found = between.search(text, start + _PART_BYTES, end)
        if found is None:
            yield text[start:end]
            return
        yield text[start : found.end() - 1]
        start = found.end()
    raise RowsError("what begins here is no row")


def _by_input(given: Any, inputs: Sequence[Input]) -> list[tuple[str, Any, Input]]:
    """For each input how messages call it, what is given for it, and what it takes."""
    names = [spec.name for spec in inputs]
    if isinstance(given, dict) and not (len(inputs) == 1 and _is_row(given, inputs[0])):
        if set(given) != set(names):
            raise RowsError(f"{_misnamed(given, names)}; {_form(inputs)} is accepted")
        return [(f"inputs.{spec.name}", given[spec.name], spec) for spec in inputs]
    if len(inputs) > 1:
        found = "a list" if isinstance(given, list) else _json(given)
        raise RowsError(f"inputs is {found}; an object with rows for each input, {_form(inputs)}, is accepted")
    return [("inputs", given, inputs[0])]


def _is_row(given: dict[str, Any], spec: Input) -> bool:
    """Whether an object is a row of an input, and not what holds its rows by its name."""
    return spec.name not in given and (are_records(given, spec) or are_images(given))


def _form(inputs: Sequence[Input]) -> str:
    return f"{{{', '.join(f'{_json(spec.name)}: [...]' for spec in inputs)}}}"


def _take(label: str, value: Any, spec: Input, words: bool, pause: Callable[[], None]) -> Given:
    """Check what is given for an input. `words`: whether the text holds true or false anywhere."""
    if are_records(value, spec):
        return Given(label, spec, rows_of_records(label, value, spec, pause), isinstance(value, list))
    if are_images(value):
        rows = images_of(label, value, spec, pause)
        return _of_rows(label, rows, spec, isinstance(value, list))
    if spec.varies:
        return _take_of_any_size(label, value, spec, words)
    try:
        values = _as_values(value, spec)
    except ValueError as error:
        depth = _depth(value)
        found = "is ragged: its lists differ in length"
        if depth > len(spec.shape) + 1:  # NumPy takes no more than 64 deep
            found = f"holds lists {depth} deep"
        raise RowsError(f"{label} {found}; {accepted_shape(spec)}") from error
    listed = list(values.shape) != spec.shape
    if listed and (list(values.shape[1:]) != spec.shape or len(values) == 0):
        raise RowsError(f"{label} has the shape {list(values.shape)}; {accepted_shape(spec)}")
    _check_values(label, value, values, spec, words)
    return Given(label, spec, values if listed else values[None], listed)


def _take_of_any_size(label: str, value: Any, spec: Input, words: bool) -> Given:
    """The same where sizes differ from row to row; rows that are all of one size are one array nevertheless."""
    depth = _depth(value)
    listed = depth == len(spec.shape) + 1
    if not listed and depth != len(spec.shape):
        raise RowsError(f"{label} holds lists {depth} deep; {accepted_shape(spec)}")
    rows: list[npt.NDArray[Any]] = []
    for index, row in enumerate(value if listed else [value]):
        called = f"row {index} of {label}" if listed else label
        try:
            values = _as_values(row, spec)
        except ValueError as error:
            raise RowsError(f"{called} is ragged: its lists differ in length; {accepted_shape(spec)}") from error
        if len(values.shape) != len(spec.shape) or not all(map(accepts, spec.dimensions, values.shape)):
            raise RowsError(f"{called} has the shape {list(values.shape)}; {accepted_shape(spec)}")
        _check_values(called, row, values, spec, words)
        rows.append(values)
    return _together(label, rows, spec, listed)


def _of_rows(label: str, rows: list[npt.NDArray[Any]], spec: Input, listed: bool) -> Given:
    """Rows that are arrays of shapes that are accepted, with their values checked."""
    for index, row in enumerate(rows):
        check_bounds(f"row {index} of {label}" if listed else label, row, spec)
    return _together(label, rows, spec, listed)


def _together(label: str, rows: list[npt.NDArray[Any]], spec: Input, listed: bool) -> Given:
    alike = len({row.shape for row in rows}) == 1
    return Given(label, spec, np.stack(rows) if alike else rows, listed)


def _depth(value: Any) -> int:
    """How deep lists are nested, by the first entry of each."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth


def _as_values(value: Any, spec: Input) -> npt.NDArray[Any]:
    """Nested lists as an array; ValueError where they differ in length."""
    values = np.asarray(value)
    if spec.takes_missing and values.dtype == object and not first_unfit(value, spec.kind, missing=True):
        return np.asarray(value, np.float64)
    return values


def _check_values(label: str, value: Any, values: npt.NDArray[Any], spec: Input, words: bool) -> None:
    """Raise where an array, made of nested lists, holds what the input does not take."""
    kinds, called = _TAKEN[spec.kind]
    if spec.takes_missing:
        called = f"{called}, and null for what is missing"
    # Among numbers NumPy takes true for 1; where the text has no such words, there is nothing to look for.
    mixed = words and spec.kind != "b" and any(word in _dumped(value) for word in _WORDS)
    if values.dtype.kind not in kinds or mixed:
        raise RowsError(f"{label} holds {first_unfit(value, spec.kind, missing=spec.takes_missing)}; {called}")
    check_values(label, values, spec)


def first_unfit(value: Any, kind: str, *, missing: bool) -> str:
    """The first thing in nested lists that is not of that kind, as text; null is of any where values may be missing."""
    if isinstance(value, list):
        return next((text for part in value if (text := first_unfit(part, kind, missing=missing))), "")
    if value is None and missing:
        return ""
    if isinstance(value, bool):
        return "" if kind == "b" else _json(value)
    if isinstance(value, int):
        if kind == "b":
            return "" if value in (0, 1) else str(value)
        return "" if abs(value) < 2**63 else f"{value}, which is out of range"
    if isinstance(value, float) and kind == "f":
        return ""
    return "an object" if isinstance(value, dict) else _json(value)


def _json(value: Any) -> str:
    return str(_dumped(value), "utf-8")[:_SHOWN]


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:  # what was parsed is JSON, but orjson writes less depth than it reads
        raise RowsError(_TOO_DEEP) from error


def _misnamed(given: Mapping[str, Any], names: Sequence[str]) -> str:
    """What is wrong with the names of the inputs that a client sent."""
    lacks, unknown = [name for name in names if name not in given], set(given) - set(names)
    wrong = {"lacks": str(lacks) if lacks else "", "holds the unknown": _named(unknown) if unknown else ""}
    return f"inputs {' and '.join(f'{words} {some}' for words, some in wrong.items() if some)}"


def _named(given: Iterable[str]) -> str:
    """Some names that a client sent."""
    names = sorted(given)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{[name[:_SHOWN] for name in names[:_MOST_NAMES]]}{more}"
