"""Arguments: what an engine is given in Python, where that may be something else than it is to be."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.ragged import Rows
from mcdropout.engine.reading import Reading, is_number
from mcdropout.engine.selection import Selection
from mcdropout.engine.stopping import DEFAULT_TOLERANCE


def as_levels(quantiles: object) -> tuple[float, ...] | None:
    """The levels of a network's quantiles, as they are given. Raises InvalidInputError where these are none."""
    if quantiles is None:
        return None
    if not isinstance(quantiles, Iterable) or isinstance(quantiles, str):
        raise InvalidInputError(
            f"quantiles is {quantiles!r}; levels between 0 and 1, as [0.05, 0.5, 0.95], are accepted"
        )
    return tuple(quantiles)


def as_count(name: str, count: object, least: int) -> int:
    """How many of something there are to be. Raises InvalidInputError where that is no number, or less than `least`."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < least:
        auto = ', or "auto",' if name == "passes" and isinstance(count, str) else ""
        raise InvalidInputError(f"{name} is {count!r}; an integer of {least} or more{auto} is accepted")
    return int(count)


def as_tolerance(tolerance: object) -> float:
    """The standard error that is small enough, the usual one where none is given. Raises InvalidInputError."""
    if tolerance is None:
        return DEFAULT_TOLERANCE
    if not is_number(tolerance) or not 0.0 < float(tolerance) < math.inf:
        raise InvalidInputError(f"tolerance is {tolerance!r}; a number above 0 is accepted")
    return float(tolerance)


def as_path(path: object, name: str) -> Path:
    """A path, as it is given for an argument of that name. Raises InvalidInputError where it is none."""
    if isinstance(path, str | os.PathLike) and isinstance(os.fspath(path), str):
        return Path(path)
    raise InvalidInputError(
        f"{name} is of the type {type(path).__name__}; a path, as text or pathlib.Path, is accepted"
    )


def as_folder(folder: object) -> Path:
    """A folder to write to. Raises InvalidInputError where it cannot be one."""
    path = as_path(folder, "folder")
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"folder is {str(path)!r}, which is a file; a folder, or a name of none, is accepted")
    return path


def check_reading(reading: object) -> None:
    """Raise InvalidInputError where that is no reading, or one that cannot be."""
    if not isinstance(reading, Reading):
        raise InvalidInputError(f"reading is {reading!r}; a Reading, or None for the one that was saved, is accepted")
    reading.check()


def check_as_many(inputs: Sequence[Rows]) -> None:
    """Raise InvalidInputError where inputs differ in their numbers of rows."""
    if len(counts := {len(x) for x in inputs}) > 1:
        raise InvalidInputError(f"the inputs have {sorted(counts)} rows; the same number in each is accepted")


def check_step_bytes(step_bytes: object) -> None:
    """Raise InvalidInputError where that is no amount of memory."""
    if not is_number(step_bytes) or not step_bytes > 0:
        raise InvalidInputError(f"step_bytes is {step_bytes!r}; a number of bytes above 0 is accepted")


def check_kinds(missing: object, selection: object) -> None:
    """Raise InvalidInputError where one of these is of another type than is accepted."""
    if not isinstance(missing, bool):
        raise InvalidInputError(f"missing is {missing!r}; True or False is accepted")
    if selection is not None and not isinstance(selection, Selection):
        raise InvalidInputError(f"selection is {selection!r}; a Selection, or None for all sites, is accepted")
