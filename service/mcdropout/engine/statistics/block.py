"""Blocks: the outputs of some next passes, read once for all statistics."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice


class Block(Protocol):
    """What a task makes of the outputs of some passes. Statistics share it, and leave it as it is."""

    @property
    def samples(self) -> Floats:
        """`[rows, passes, ...]`, what the mean is the mean of."""


def not_finite(outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output `[rows, passes, ...]` holds NaN or infinity."""
    wrong = np.zeros(len(outputs[0]), bool)
    for output in outputs:
        wrong |= ~np.isfinite(output).all(axis=tuple(range(1, output.ndim)))
    return wrong


ROUNDING = 0.02  # of probabilities in half precision, and of sums of many


def outside(output: Array, low: float, high: float) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output `[rows, passes, ...]` leaves `low` to `high` by more than rounding."""
    axes = tuple(range(1, output.ndim))
    wrong = (output < low - ROUNDING) | (output > high + ROUNDING)
    return np.asarray(wrong.any(axis=axes))
