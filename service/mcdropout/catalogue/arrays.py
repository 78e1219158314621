"""Arrays: rows that come in binary. What a header declares is checked before anything behind it is read."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import (
    Given,
    RowsError,
    accepted_shape,
    check_bounds,
    check_number,
    check_together,
    check_values,
    prepare,
)
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.engine.sizes import accepts

# By the kind of an input's dtype: the kinds of array that it takes, and what they are called. Of several bytes, in
# either order of them.
_TAKEN = {
    "f": ("iuf", "float16, float32, float64 or an integer dtype"),
    "i": ("iu", "an integer dtype"),
    "b": ("biu", "bool, or an integer dtype for 0 and 1,"),
}
_MOST_ITEM_BYTES = 8  # NumPy's longer floats differ from machine to machine


class Declared(NamedTuple):
    """An array that an input is to be read from, as its header says.

    Attributes:
        label: how messages call it.
        spec: the input.
        dtype, shape: what the header says.
        listed: whether it holds a list of rows; else one row.
    """

    label: str
    spec: Input
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    listed: bool

    @property
    def size(self) -> int:
        """How many bytes its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def declared(label: str, spec: Input, dtype: np.dtype[Any], shape: Sequence[int], most: int | None) -> Declared:
    """An array that fits an input, as far as its header can tell.

    Args:
        label: how messages call it.
        spec: the input.
        dtype, shape: what the header says.
        most: how many rows are accepted; None for any number.

    Raises:
        RowsError: it does not fit.
    """
    kinds, called = _TAKEN[spec.kind]
    if dtype.kind not in kinds or dtype.itemsize > _MOST_ITEM_BYTES:
        raise RowsError(f"{label} has the dtype {dtype}; {called} is accepted")
    listed = len(shape) == len(spec.shape) + 1
    row = tuple(shape[1:] if listed else shape)
    fits = len(row) == len(spec.shape) and all(map(accepts, spec.dimensions, row))
    if not fits or (listed and shape[0] < 1):
        raise RowsError(f"{label} has the shape {list(shape)}; {accepted_shape(spec)}")
    check_number(shape[0] if listed else 1, most)
    return Declared(label, spec, dtype, tuple(shape), listed)


def check_size(array: Declared, size: int) -> None:
    """Raise RowsError where there are not as many bytes as an array takes."""
    if size != array.size:
        raise RowsError(
            f"{array.label} has {size} bytes of values; {array.size}, for {array.dtype} in the shape "
            f"{list(array.shape)}, are accepted"
        )


def rows_of_arrays(
    arrays: Sequence[tuple[Declared, npt.NDArray[Any]]], most: int | None, pause: Callable[[], None]
) -> tuple[Rows, ...]:
    """The rows that arrays hold, as the network takes them.

    Args:
        arrays: what was declared for each input, and the values.
        most: how many rows are accepted; None for any number.
        pause: called between parts.

    Raises:
        RowsError: they hold what an input does not take, or not the same number of rows.
    """
    given = [
        Given(array.label, array.spec, values if array.listed else values[None], array.listed)
        for array, values in arrays
    ]
    for part in given:
        check_values(part.label, np.asarray(part.values), part.spec, infinite="infinity")
        pause()
    check_together(given, most)
    return tuple(prepare(part, pause) for part in given)


def rows_of_array(label: str, spec: Input, values: npt.NDArray[Any]) -> tuple[Rows, ...]:
    """The rows `[rows, *shape]` of an array, as the network takes them.

    Raises:
        RowsError: they cannot be used; of one row of numbers it names the column.
    """
    values = np.ascontiguousarray(values)
    given = values[0] if len(values) == 1 else values
    array = declared(label, spec, values.dtype, given.shape, None)
    try:
        return rows_of_arrays([(array, given)], None, lambda: None)
    except RowsError:
        if len(values) == 1 and values.ndim == 2 and spec.kind != "b":
            names = spec.columns or range(values.shape[1])
            for name, cell in zip(names, values[0, :, None], strict=True):
                check_bounds(f"{label} in the column {name!r}", cell, spec, infinite="infinity")
        raise
