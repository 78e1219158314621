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
        rows: their values, None for what is missing; or texts that say these.
        first_line: the number of the line that the first row is, where they are texts.
    """

    names: tuple[str, ...] | None
    rows: Sequence[Sequence[Any]]
    first_line: int | None = None

    def value(self, row: int, place: int, one: InputDescription, column: str | None = None) -> Any:
        """A value as an input takes it.

        Args:
            row, place: where it stands.
            one: the input.
            column: which of its columns it is of; None where it has none.

        Raises:
            UnusableInputsError: it is a text that says none.
        """
        value, categories = self.rows[row][place], one.categories.get(column or "", {})
        if self.first_line is not None:
            value = _read(value, categories)
            if isinstance(value, str) and value not in categories:
                accepted = f"one of {_shown(categories)}" if categories else "numbers, true, false"
                raise UnusableInputsError(
                    f"line {self.first_line + row} of the table holds {value!r}; {accepted}, and nothing for what is "
                    "missing, are accepted"
                )
        # A column with gaps holds whole numbers as floats.
        return int(value) if one.takes_whole_numbers and isinstance(value, float) and value.is_integer() else value


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
        UnusableInputsError: it holds no rows.
    """
    lines = [line for line in csv.reader(text.splitlines()) if line]
    if not lines:
        raise UnusableInputsError("the table is empty; a line for each row is accepted")
    names = None if all(map(_is_value, lines[0])) else tuple(cell.strip() for cell in lines[0])
    first = 1 if names else 0
    if len(lines) == first:
        raise UnusableInputsError(
            f"the table holds names alone, {_shown(names or ())}; a line for each row is accepted"
        )
    return Table(names, lines[first:], first + 1)


def columns_of(names: Sequence[str] | None, inputs: Sequence[InputDescription]) -> list[str] | None:
    """The columns that a model reads from a table by their names, in its order; None where it reads them otherwise.

    A table that has none of these names is one of other names, or of an array: its columns are read in their order.

    Raises:
        UnusableInputsError: the table lacks one, has another, or one twice.
    """
    if names is None or not any(name in (one.columns or ()) for one in inputs for name in names):
        return None
    if shaped := [one for one in inputs if one.columns is None and one.shape]:
        raise UnusableInputsError(
            f"the input {shaped[0].name!r} has the shape {list(shaped[0].shape)} and no columns; arrays by the names "
            "of the inputs are accepted"
        )
    wanted = list(dict.fromkeys(name for one in inputs for name in one.columns or (one.name,)))
    lacks, more = [name for name in wanted if name not in names], [name for name in names if name not in wanted]
    twice = [name for name in wanted if list(names).count(name) > 1]
    found = [
        f"{words} {_shown(some)}"
        for words, some in (("lacks", lacks), ("holds the unknown", more), ("holds twice", twice))
        if some
    ]
    if found:
        raise UnusableInputsError(f"the table {' and '.join(found)}; the columns {_shown(wanted)} are accepted")
    return wanted


def inputs_of_table(table: Table, inputs: Sequence[InputDescription]) -> Any:
    """A table's rows as a model takes them.

    Where an input has columns that the table names, a row is an object of these, whatever their order. Where its inputs
    are several of one value a row, each is the column of its name. Where there is one input, of a shape of one
    dimension or none, a row is a line's values, in the order of the columns.

    Raises:
        UnusableInputsError: the model takes no such rows.
    """
    if not table.rows:
        raise UnusableInputsError("the table has no rows; one or more are accepted")
    if table.names is not None and columns_of(table.names, inputs) is not None:
        return _by_column(table, table.names, inputs)
    if table.first_line is not None and any(one.categories for one in inputs):
        accepted = [name for one in inputs for name in one.columns or ()]
        raise UnusableInputsError(
            f"the table has {f'the columns {_shown(table.names)}' if table.names else 'no line of names'}; one of "
            f"{_shown(accepted)} is accepted"
        )
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
    values = [[table.value(number, place, one) for place in range(len(row))] for number, row in enumerate(table.rows)]
    return values if one.shape else [row[0] for row in values]


def _by_column(table: Table, names: tuple[str, ...], inputs: Sequence[InputDescription]) -> Any:
    """For the one input a row as an object of its columns, or for each by its name."""
    _check_rows(table, names)
    places = {name: place for place, name in enumerate(names)}

    def column(name: str, one: InputDescription) -> list[Any]:
        return [table.value(row, places[name], one, name) for row in range(len(table.rows))]

    found: dict[str, list[Any]] = {}
    for one in inputs:
        if one.columns is None:
            found[one.name] = column(one.name, one)
        else:
            cells = zip(*(column(name, one) for name in one.columns), strict=True)
            found[one.name] = [dict(zip(one.columns, row, strict=True)) for row in cells]
    return found[inputs[0].name] if len(inputs) == 1 else found


def _check_rows(table: Table, names: Sequence[str]) -> None:
    if any(len(row) != len(names) for row in table.rows):
        raise UnusableInputsError(f"a row of the table has other than {len(names)} values; one a column is accepted")


def _by_name(table: Table, names: tuple[str, ...], inputs: Sequence[InputDescription]) -> Mapping[str, list[Any]]:
    wanted = {one.name: one for one in inputs}
    if sorted(names) != sorted(wanted):
        raise UnusableInputsError(
            f"the table has the columns {_shown(names)}; one for each input, {_shown(list(wanted))}, is accepted"
        )
    places = {name: place for place, name in enumerate(names)}
    _check_rows(table, names)
    rows = range(len(table.rows))
    return {name: [table.value(row, places[name], one) for row in rows] for name, one in wanted.items()}


def _is_value(cell: str) -> bool:
    return isinstance(_read(cell), (int, float, type(None)))


def _read(cell: str, categories: Mapping[str, float] | None = None) -> int | float | bool | str | None:
    """A cell's value; its text where it is none, or a category."""
    text = cell.strip()
    if categories and text in categories:
        return text
    if text.lower() in _MISSING:
        return None
    if categories:
        return text
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
