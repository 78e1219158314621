"""Tables: a pandas DataFrame or the lines of a CSV file, as the inputs of a model."""

import csv
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcdropout.client.description import InputDescription
from mcdropout.client.errors import UnusableInputsError

_MISSING = ("", "na", "nan", "null", "none")
_TRUTH = {"true": True, "false": False}
_SHOWN = 10  # names of columns in a message


@dataclass(frozen=True)
class Table:
    """Rows of values, with the names of their columns where these have some.

    Attributes:
        names: of the columns; None where they have none.
        rows: their values; None is for what is missing.
    """

    names: tuple[str, ...] | None
    rows: Sequence[Sequence[Any]]


def is_frame(value: object) -> bool:
    """Whether a value is a pandas DataFrame; where pandas was never imported there is none."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def table_of_frame(frame: Any) -> Table:
    """A DataFrame's values, without its index."""
    pandas = importlib.import_module("pandas")
    columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
    values = [
        [None if missing else value for value, missing in zip(one.tolist(), pandas.isna(one), strict=True)]
        for one in columns
    ]
    rows = [list(row) for row in zip(*values, strict=True)]
    return Table(tuple(map(str, frame.columns)), rows)


def read_csv(text: str) -> Table:
    """The lines of a CSV text; the first is one of names where it holds anything but numbers, true, false and nothing.

    Raises:
        UnusableInputsError: it holds no rows, or a value that is no number.
    """
    lines = [line for line in csv.reader(text.splitlines()) if line]
    if not lines:
        raise UnusableInputsError("the table is empty; a line for each row is accepted")
    names = None if all(map(_is_value, lines[0])) else tuple(cell.strip() for cell in lines[0])
    first = 1 if names else 0
    rows = [[_value(cell, number) for cell in line] for number, line in enumerate(lines[first:], first + 1)]
    if not rows:
        raise UnusableInputsError(
            f"the table holds names alone, {_shown(names or ())}; a line for each row is accepted"
        )
    return Table(names, rows)


def inputs_of_table(table: Table, inputs: Sequence[InputDescription]) -> Any:
    """A table's rows as a model takes them.

    Where its inputs are several of one value a row, each is the column of its name. Where there is one input, of a
    shape of one dimension or none, a row is a line's values, in the order of the columns.

    Raises:
        UnusableInputsError: the model takes no such rows.
    """
    if not table.rows:
        raise UnusableInputsError("the table has no rows; one or more are accepted")
    if len(inputs) > 1:
        if table.names is None or any(one.shape for one in inputs):
            named = ", ".join(f"{one.name!r} of shape {list(one.shape)}" for one in inputs)
            raise UnusableInputsError(
                f"the model takes the inputs {named}; a table with a column for each is accepted where all are of one "
                "value a row, else arrays by their names"
            )
        return _by_name(table, table.names, inputs)
    (one,) = inputs
    if len(one.shape) > 1:
        raise UnusableInputsError(
            f"the input {one.name!r} has the shape {list(one.shape)}, and a line of a table one dimension; arrays of "
            "that shape are accepted"
        )
    width = 1 if not one.shape else one.shape[0]
    for number, row in enumerate(table.rows):
        if isinstance(width, int) and len(row) != width:
            columns = f", the columns {_shown(table.names)}" if table.names else ""
            raise UnusableInputsError(
                f"row {number} of the table has {len(row)} values{columns}; {width}, the size of the input "
                f"{one.name!r}, are accepted"
            )
    values = [[_as_taken(value, one) for value in row] for row in table.rows]
    return values if one.shape else [row[0] for row in values]


def _by_name(table: Table, names: tuple[str, ...], inputs: Sequence[InputDescription]) -> Mapping[str, list[Any]]:
    wanted = {one.name: one for one in inputs}
    if sorted(names) != sorted(wanted):
        raise UnusableInputsError(
            f"the table has the columns {_shown(names)}; one for each input, {_shown(list(wanted))}, is accepted"
        )
    places = {name: place for place, name in enumerate(names)}
    if any(len(row) != len(names) for row in table.rows):
        raise UnusableInputsError(f"a row of the table has other than {len(names)} values; one a column is accepted")
    return {name: [_as_taken(row[places[name]], one) for row in table.rows] for name, one in wanted.items()}


def _as_taken(value: Any, one: InputDescription) -> Any:
    """A value as the input takes it: a column with gaps holds whole numbers as floats."""
    if one.takes_whole_numbers and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_value(cell: str) -> bool:
    return isinstance(_read(cell), (int, float, type(None)))


def _value(cell: str, line: int) -> Any:
    value = _read(cell)
    if isinstance(value, str):
        raise UnusableInputsError(
            f"line {line} of the table holds {value!r}; numbers, true, false, and nothing for what is missing, are "
            "accepted"
        )
    return value


def _read(cell: str) -> int | float | bool | str | None:
    """A cell's value; its text where it is none."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return None
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{listed[:_SHOWN]}{more}"
