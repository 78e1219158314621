"""Checks of rows, whatever they came in: shapes, bounds, numbers of rows, and what the network gets of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.inputs import Input
from mcdropout.engine.arrays import Array
from mcdropout.engine.ragged import Rows

_PART_VALUES = 2**16
_TOO_LARGE = "a number too large for a float"
TRUTHS = "true and false, or 1 and 0, are accepted"
"""What messages say of an input of booleans."""


class RowsError(ValueError):
    """Rows cannot be used. The message names the input, what was received, and what would be accepted."""


class Given(NamedTuple):
    """What was given for an input: how messages call it, its values `[rows, *shape]`, a row after another where sizes
    differ, and whether it is a list of rows."""

    label: str
    spec: Input
    values: "npt.NDArray[Any] | list[npt.NDArray[Any]]"
    listed: bool


def check_together(given: Sequence[Given], most: int | None) -> None:
    """Raise RowsError where inputs have not the same number of rows, or more than `most`; None for any number."""
    if len({len(part.values) if part.listed else None for part in given}) > 1:
        found = ", ".join(
            f"{part.label} is {f'a list of {len(part.values)}' if part.listed else 'one row'}" for part in given
        )
        raise RowsError(f"{found}; one row for each, or lists of the same number of rows, are accepted")
    check_number(len(given[0].values), most)


def check_number(rows: int, most: int | None) -> None:
    """Raise RowsError where there are more rows than `most`; None for any number."""
    if most is not None and rows > most:
        raise RowsError(f"inputs holds {rows} rows; 1 to {most} are accepted")


def accepted_shape(spec: Input) -> str:
    """What is accepted for an input, as messages say it."""
    if not spec.shape:
        return "a single value for one row, [rows] for several is accepted"
    shape = ", ".join(map(str, spec.dimensions))
    return f"[{shape}] for one row, [rows, {shape}] for several is accepted"


def check_values(label: str, values: npt.NDArray[Any], spec: Input, infinite: str = _TOO_LARGE) -> None:
    """Raise RowsError where values are not what an input takes; the arguments are those of `check_bounds`."""
    if spec.kind == "b":
        _check_truths(label, values)
    else:
        check_bounds(label, values, spec, infinite)


def _check_truths(label: str, values: npt.NDArray[Any]) -> None:
    """Raise RowsError where values are neither true and false, nor the whole numbers that tokenizers give for these."""
    if values.dtype.kind == "b":
        if (byte := int(values.view(np.uint8).max())) > 1:
            raise RowsError(f"{label} holds the byte {byte}; 0 for false and 1 for true are accepted")
        return
    wrong = values if values.dtype.kind not in "iu" else values[(values < 0) | (values > 1)]
    if wrong.size:
        raise RowsError(f"{label} holds {wrong.flat[0]}; {TRUTHS}")


def check_bounds(label: str, values: npt.NDArray[Any], spec: Input, infinite: str = _TOO_LARGE) -> None:
    """Raise RowsError where numbers are not finite, or beyond what an input takes.

    Args:
        label: how messages call them.
        values: the numbers.
        spec: the input. Its bounds count as numbers of the values' own dtype have them: 0.1 in float32 is at most 0.1.
        infinite: what messages say of an infinite one.
    """
    low, high = spec.minimum, spec.maximum
    if spec.kind == "i":
        lowest, highest = spec.bounds_of_dtype
        low, high = lowest if low is None else int(low), highest if high is None else int(high)
    if spec.takes_missing:
        values = values[~np.isnan(values)]
        if not values.size:
            return
    least, most = values.min().item(), values.max().item()
    if not math.isfinite(least) or not math.isfinite(most):
        found = "NaN" if math.isnan(least) else infinite
        raise RowsError(f"{label} holds {found}; finite numbers are accepted")
    if _at_most(low, least, values.dtype) and _at_most(most, high, values.dtype):
        return
    found = f"{least} to {most}" if spec.kind == "i" else f"{least:g} to {most:g}"
    bounds = [f"{name} {value}" for name, value in (("at least", low), ("at most", high)) if value is not None]
    accepted = f"{low} to {high}" if len(bounds) == 2 else bounds[0]
    raise RowsError(f"{label} holds values from {found}; {accepted} is accepted")


def _at_most(low: float | None, high: float | None, dtype: np.dtype[Any]) -> bool:
    """Whether one number is at most another, or is so in a dtype of few digits; None is of no bound."""
    if low is None or high is None or low <= high:
        return True
    with np.errstate(over="ignore"):
        return dtype.kind == "f" and bool(dtype.type(low) <= dtype.type(high))


def prepare(given: Given, pause: Callable[[], None]) -> Rows:
    """What was given and checked, as the network takes it; of much some rows at a time, with pauses."""
    if isinstance(given.values, list):
        return [_prepared(given, row[None])[0] for row in given.values]
    values = given.values
    if values.size <= _PART_VALUES:
        return _prepared(given, values)
    ready = np.empty(values.shape, given.spec.network_dtype)
    step = max(1, _PART_VALUES * len(values) // values.size)
    for start in range(0, len(values), step):
        ready[start : start + step] = _prepared(given, values[start : start + step])
        pause()
    return ready


def _prepared(given: Given, values: npt.NDArray[Any]) -> Array:
    """Rows `[rows, *shape]` as the network takes them."""
    prepared = given.spec.prepare(values)
    if prepared.dtype.kind != "f":
        return prepared
    finite = np.isfinite(prepared)
    if given.spec.takes_missing:
        finite |= np.isnan(values)
    if not finite.all():
        raise RowsError(
            f"{given.label} holds {values[~finite][0]:g}, which preprocessing and {given.spec.network_dtype} make "
            "infinite; smaller numbers are accepted"
        )
    return prepared
