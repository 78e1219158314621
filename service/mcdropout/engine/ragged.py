"""Ragged rows: rows of different sizes, sorted into batches of one size each, so that no row is padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.inputs import InputSpec, OneInput, as_array, check_whole
from mcdropout.engine.sizes import Named, Sizing, told
from mcdropout.engine.statistics import concatenate, take
from mcdropout.engine.steps import Outcome

Rows = Array | Sequence[Array]
"""Of an input: `[rows, ...]` where all have one size, or else a row after another, without that dimension."""


@dataclass(frozen=True)
class Batch:
    """Rows of one size.

    Attributes:
        sizes: the size of each named dimension.
        rows: `[rows]`, which rows of all they are, in order.
        inputs: `[rows, ...]` each.
    """

    sizes: dict[str, int]
    rows: npt.NDArray[np.int64]
    inputs: tuple[Array, ...]


def as_rows(x: OneInput, spec: InputSpec) -> Rows:
    """An input, checked and in its dtype, whose rows may be of different sizes where its spec has named ones.

    Raises:
        InvalidInputError: naming what was given and what would be accepted.
    """
    if not isinstance(x, list | tuple) or not any(isinstance(size, Named) for size in spec.shape) or not _ragged(x):
        return as_array(x, spec)
    found: list[Array] = []
    for index, row in enumerate(x):
        check_whole(row, f"row {index} of {spec.label}")
        try:
            array = np.asarray(row.detach().cpu() if hasattr(row, "detach") else row)
        except ValueError as error:
            raise InvalidInputError(f"row {index} of {spec.label} is no array ({error})") from error
        place = min(spec.row_axis, array.ndim)
        try:
            found.append(as_array(np.expand_dims(array, place), spec)[0])
        except InvalidInputError as error:
            raise InvalidInputError(f"row {index}: {error}") from error
    return found


def _ragged(x: Sequence[Any]) -> bool:
    """Whether the rows of a sequence have different shapes."""
    try:
        return len({np.shape(row) for row in x}) > 1
    except ValueError:  # a row is ragged itself
        return True


def batches_of(inputs: Sequence[Rows], sizing: Sizing) -> list[Batch]:
    """The rows of all inputs, those of one size together, in the order in which the sizes come.

    Args:
        inputs: as many rows of each.
        sizing: which dimensions have which names.

    Raises:
        InvalidInputError: dimensions of one name have several sizes in a row.
    """
    if all(isinstance(x, np.ndarray) for x in inputs):
        rows = np.arange(len(inputs[0]), dtype=np.int64)
        return [Batch(_sizes_of_row(inputs, 0, sizing), rows, tuple(np.asarray(x) for x in inputs))]
    found: dict[tuple[int, ...], tuple[dict[str, int], list[int]]] = {}
    for row in range(len(inputs[0])):
        sizes = _sizes_of_row(inputs, row, sizing)
        found.setdefault(tuple(sizes.values()), (sizes, []))[1].append(row)
    return [
        Batch(sizes, np.array(taken, np.int64), tuple(np.stack([x[row] for row in taken]) for x in inputs))
        for sizes, taken in found.values()
    ]


def _sizes_of_row(inputs: Sequence[Rows], row: int, sizing: Sizing) -> dict[str, int]:
    shapes = [x[row].shape for x in inputs]
    sizes = sizing.sizes_of(shapes)
    for found, wanted in zip(shapes, sizing.shapes_at(sizes), strict=True):
        if found != wanted:
            raise InvalidInputError(
                f"row {row} has the shapes {[list(shape) for shape in shapes]}, which are not all of {told(sizes)}; "
                "one size for each name is accepted"
            )
    return sizes


def in_order_of_rows(outcomes: Sequence[Outcome], rows: npt.NDArray[np.int64]) -> Outcome:
    """One outcome of several, whose rows are these of all."""
    shapes = [
        {name: value.shape[1:] for name, value in one.prediction.values.items() if value is not None}
        for one in outcomes
    ]
    if any(shape != shapes[0] for shape in shapes):
        raise InvalidInputError(
            "these rows have answers of different shapes, because they have different sizes; rows of one size at a "
            "time are accepted"
        )
    order = np.argsort(rows)
    samples = [one.samples for one in outcomes if one.samples is not None]
    return Outcome(
        take(concatenate([one.prediction for one in outcomes]), order),
        np.concatenate(samples)[order] if samples else None,
        np.concatenate([one.faults for one in outcomes])[order],
    )
