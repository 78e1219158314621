"""Tables: which columns an input is read from, and rows of cells as a network takes them; of files and of requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import TRUTHS, Given, RowsError, check_values, prepare
from mcdropout.catalogue.columns import rows_of_records
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows

_SHOWN, _MOST_NAME = 20, 100  # names in a message, and characters of each

Kind = Literal["number", "text", "truth", "list", "null", "other"]
"""What a column holds: numbers, text, true and false, lists of numbers or of true and false, or null alone."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: what the table calls it.
        kind: what it holds.
        told: its type as messages say it.
    """

    name: str
    kind: Kind
    told: str


@dataclass(frozen=True)
class Binding:
    """Which columns an input is read from.

    Attributes:
        spec: the input; its columns are those of the table.
        names: the columns, in the input's order.
        is_list: whether it is one column, of lists.
    """

    spec: Input
    names: tuple[str, ...]
    is_list: bool = False

    @property
    def codes(self) -> Mapping[str, Mapping[str, float]]:
        """By the name of a column of categories, the number of each."""
        return self.spec.categories


class Cells(Protocol):
    """Cells of some rows of a table."""

    def matrix(self, label: str, binding: Binding) -> npt.NDArray[Any]:
        """`[rows, columns]`, as a client would send them; RowsError, of any text, where a cell is not plainly right."""

    def record(self, label: str, binding: Binding) -> dict[str, Any]:
        """The cells of the one row, as JSON would have them."""


def bound(label: str, columns: Sequence[Column], takes: Sequence[Input], apart: Sequence[str] = ()) -> list[Binding]:
    """Which columns of a table each input is read from.

    Args:
        label: how messages call the table.
        columns: of the table.
        takes: the model's inputs.
        apart: the names of columns that inputs are read from only where they name these.

    Raises:
        RowsError: the table lacks one.
    """
    names = [column.name for column in columns]
    found = [_bound(label, columns, spec, apart, alone=len(takes) == 1) for spec in takes]
    for name in dict.fromkeys([*(name for binding in found for name in binding.names), *apart]):
        if names.count(name) > 1:
            raise RowsError(f"{label} has the column {name!r} {names.count(name)} times; once is accepted")
    return found


def _bound(label: str, columns: Sequence[Column], spec: Input, apart: Sequence[str], *, alone: bool) -> Binding:
    by_name = {column.name: column for column in columns}
    if spec.columns is not None:
        if lacks := [name for name in spec.columns if name not in by_name]:
            raise RowsError(
                f"{label} lacks the columns {shown(lacks)}; those of the input {spec.name!r}, {shown(spec.columns)}, "
                "are accepted"
            )
        for name in spec.columns:
            _check_kind(label, by_name[name], "text" if name in spec.categories else _kind_of(spec))
        return Binding(spec, tuple(spec.columns))
    named = by_name.get(spec.name)
    lists = [column for column in columns if column.kind == "list" and column.name not in apart]
    if named is None and alone and len(lists) == 1 and spec.shape:
        named = lists[0]
    if named is not None and (named.kind == "list") == bool(spec.shape):
        if named.kind == "list":
            return Binding(spec, (named.name,), is_list=True)
        _check_kind(label, named, _kind_of(spec))
        return Binding(_of_columns(spec, [named.name]), (named.name,))
    if alone and len(spec.shape) <= 1 and not spec.varies:
        return _of_numbers(label, columns, spec, apart)
    accepted = "of lists " if spec.shape else ""
    raise RowsError(
        f"{label} has no column {accepted}for the input {spec.name!r} of the shape {spec.shape}, which is accepted; it "
        f"has {shown(list(by_name))}"
    )


def _of_numbers(label: str, columns: Sequence[Column], spec: Input, apart: Sequence[str]) -> Binding:
    """All columns that do not stand apart, where they are as many as the input takes; else those of numbers."""
    wanted = int(spec.shape[0]) if spec.shape else 1
    kind = _kind_of(spec)
    rest = [column for column in columns if column.name not in apart]
    fitting = [column for column in rest if column.kind == kind]
    if len(rest) == wanted:
        for column in rest:
            _check_kind(label, column, kind)
        fitting = rest
    if len(fitting) != wanted:
        beside = " beside those that are kept" if apart else ""
        raise RowsError(
            f"{label} has {len(fitting)} columns of {_NAMED[kind]}{beside}, "
            f"{shown([column.name for column in fitting])}; {wanted}, in the order of the input {spec.name!r}, are "
            "accepted"
        )
    names = [column.name for column in fitting]
    return Binding(_of_columns(spec, names), tuple(names))


_NAMED = {"number": "numbers", "text": "text", "truth": "true and false", "list": "lists", "other": "something else"}


def _kind_of(spec: Input) -> Kind:
    return "truth" if spec.kind == "b" else "number"


def _check_kind(label: str, column: Column, wanted: Kind) -> None:
    if column.kind not in (wanted, "null") and (wanted, column.kind) != ("truth", "number"):
        accepted = TRUTHS if wanted == "truth" else f"{_NAMED[wanted]} are accepted"
        raise RowsError(f"in {label} the column {column.name!r} holds {column.told}; {accepted}")


def _of_columns(spec: Input, names: list[str]) -> Input:
    """An input that bundles name no columns for, with a table's."""
    same = spec.model_copy(update={"columns": names})
    same.__dict__["network_dtype"] = spec.network_dtype
    return same


def rows_of_cells(label: str, cells: Cells, binding: Binding, count: int) -> Rows:
    """Rows of an input, from its columns, as the network takes them.

    Raises:
        RowsError: a cell is none that the input takes; of one row it names the column.
    """
    spec = binding.spec
    try:
        values = cells.matrix(label, binding)
        check_values(label, values, spec, infinite="infinity")
    except RowsError:
        if count > 1:
            raise
        values = rows_of_records(label, cells.record(label, binding), spec, lambda: None)
    rows = prepare(Given(label, spec, values, True), lambda: None)
    return rows if spec.shape else np.asarray(rows)[:, 0]


def shown(names: Sequence[str]) -> str:
    """Names, as messages say them: the first few."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{[name[:_MOST_NAME] for name in names[:_SHOWN]]}{more}"
