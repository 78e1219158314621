"""Columns: rows of a table as objects, `{"age": 31, "ward": "B"}`, to the numbers that an input takes, in its order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.catalogue.checks import RowsError, check_bounds
from mcdropout.catalogue.inputs import Input

_PAUSE_ROWS = 64
_SHOWN, _MOST_NAMES = 100, 10  # characters, and how many names, of what a message quotes
_WHOLE = 2**63
_DTYPES = {"f": np.float64, "i": np.int64, "b": np.bool_}
_ACCEPTED = {"f": "a number", "i": "a whole number, written as 1 and not as 1.0,", "b": "true or false, or 1 or 0,"}


def are_records(value: Any, spec: Input) -> bool:
    """Whether a JSON value is meant as a row by its columns, or as several."""
    first = value[0] if isinstance(value, list) and value else value
    return spec.columns is not None and isinstance(first, dict)


def rows_of_records(label: str, value: Any, spec: Input, pause: Callable[[], None]) -> npt.NDArray[Any]:
    """`[rows, columns]` of a JSON value that is an object, or a list of them, as a client would otherwise send them.

    Args:
        label: how messages call it.
        value: the JSON value.
        spec: the input.
        pause: called between parts.

    Raises:
        RowsError: an object lacks a column, has another one, or holds what a column does not take.
    """
    listed = isinstance(value, list)
    records = value if listed else [value]
    rows: list[list[Any]] = []
    for index, record in enumerate(records):
        called = f"row {index} of {label}" if listed else label
        _check_columns(called, record, spec)
        rows.append([_code(called, name, record[name], spec) for name in spec.columns or ()])
        if index % _PAUSE_ROWS == _PAUSE_ROWS - 1:
            pause()
    values: npt.NDArray[Any] = np.array(rows, _DTYPES[spec.kind])
    if spec.kind != "b":
        _check_cells(label, values, spec, listed)
    return values


def _check_columns(label: str, record: Any, spec: Input) -> None:
    columns = spec.columns or []
    if not isinstance(record, dict):
        raise RowsError(f"{label} is {_json(record)}; an object with the columns {columns} is accepted beside others")
    if len(record) == len(columns) and all(name in record for name in columns):
        return
    lacks = [name for name in columns if name not in record]
    known = set(columns)
    more = [name for name in record if name not in known]
    found = [f"{words} {_named(names)}" for words, names in (("lacks", lacks), ("holds the unknown", more)) if names]
    raise RowsError(f"{label} {' and '.join(found)}; the columns {columns} are accepted")


def _code(label: str, name: str, value: Any, spec: Input) -> Any:
    """What the input takes for the value of a column."""
    if value is None and spec.takes_missing:
        return np.nan
    codes: Mapping[str, float] | None = spec.categories.get(name)
    if codes is not None:
        if not isinstance(value, str) or value not in codes:
            raise RowsError(f"{label} has {_json(value)} in the column {name!r}; one of {_named(codes)} is accepted")
        return codes[value]
    fits = isinstance(value, (int, float) if spec.kind == "f" else int)
    fits = fits and (value in (0, 1) if spec.kind == "b" else not isinstance(value, bool))
    if not fits or (isinstance(value, int) and abs(value) >= _WHOLE):
        raise RowsError(f"{label} has {_json(value)} in the column {name!r}; {_ACCEPTED[spec.kind]} is accepted")
    return value


def _check_cells(label: str, values: npt.NDArray[Any], spec: Input, listed: bool) -> None:
    """Raise where a number is not what the input takes, naming its row and column."""
    try:
        check_bounds(label, values, spec)
    except RowsError:
        for index, row in enumerate(values):
            for name, cell in zip(spec.columns or (), row[:, None], strict=True):
                called = f"row {index} of {label}" if listed else label
                check_bounds(f"{called}, in the column {name!r},", cell, spec)
        raise


def _json(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return str(orjson.dumps(value), "utf-8")[:_SHOWN]


def _named(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"{[name[:_SHOWN] for name in known[:_MOST_NAMES]]}{more}"
