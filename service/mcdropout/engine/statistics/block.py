"""Blocks: the outputs of some next passes, read once for all statistics."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import value_sums
from mcdropout.engine.reading import Reading

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice


class Moments(NamedTuple):
    """What some passes say of each value.

    Attributes:
        passes: how many.
        mean: `[rows, ...]`.
        squares: `[rows, ...]`, the sum of the squared deviations from it.
    """

    passes: int
    mean: Floats
    squares: Floats


class Block(Protocol):
    """What a task makes of the outputs of some passes. Statistics share it, and leave it as it is."""

    @property
    def samples(self) -> Floats:
        """`[rows, passes, ...]`, what the mean is the mean of."""

    @property
    def moments(self) -> Moments:
        """Of the samples."""

    @property
    def wrong(self) -> npt.NDArray[np.bool_] | None:
        """`[rows]`, whose outputs are of no use, and were read as others; None where all are of use."""


class SummedBlock(ABC):
    """Some passes of what has probabilities: of classes, or of labels.

    Attributes:
        moments: of the probabilities, `[rows, ...]`.
        entropy: `[rows, ...]`, the sum of the entropies of the passes, in nats.
        votes: `[rows, ...]`, how many passes were for each class, or label.
        wrong: as for every block.
    """

    moments: Moments
    entropy: Floats
    votes: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.bool_] | None = None

    def __init__(self, outputs: Sequence[Array], reading: Reading) -> None:
        """Of one output `[rows, passes, ...]`: logits, probabilities or their logarithms."""
        (self._given,) = outputs
        self._reading = reading
        if self._sum_natively():
            return
        wrong = self._unusable(outputs)
        if wrong.any():
            (self._given,) = cleared(outputs, wrong, self._harmless())
            self.wrong = wrong
            if self._sum_natively():
                return
        self._sum()

    @abstractmethod
    def _sum_natively(self) -> bool:
        """Have the C extension sum up; False where it does not, or a row is of no use."""

    @abstractmethod
    def _sum(self) -> None:
        """Sum up with NumPy what is of use."""

    @abstractmethod
    def _unusable(self, outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
        """`[rows]`, which outputs are of no use."""

    def _harmless(self) -> float:
        """What stands in the place of outputs that are of no use."""
        return 0.0


def moments_of(samples: Floats) -> Moments:
    """The moments of samples `[rows, passes, ...]`."""
    passes = samples.shape[1]
    if passes == 1:
        mean = samples[:, 0]
        return Moments(1, mean, np.zeros(mean.shape))
    if library.available():
        return Moments(passes, *value_sums(np.ascontiguousarray(samples)))
    mean = samples.mean(axis=1)
    deviations = samples - mean[:, None]
    return Moments(passes, mean, np.square(deviations, out=deviations).sum(axis=1))


def cleared(outputs: Sequence[Array], wrong: npt.NDArray[np.bool_], value: float = 0.0) -> list[Array]:
    """Outputs `[rows, passes, ...]` with another value in the rows that are wrong."""
    return [
        np.where(wrong.reshape(-1, *[1] * (output.ndim - 1)), output.dtype.type(value), output) for output in outputs
    ]


def not_finite(outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output `[rows, passes, ...]` holds NaN or infinity."""
    wrong = np.zeros(len(outputs[0]), bool)
    for output in outputs:
        finite = np.isfinite(output)
        if not finite.all():  # almost never
            wrong |= ~finite.all(axis=tuple(range(1, output.ndim)))
    return wrong


ROUNDING = 0.02  # of probabilities in half precision, and of sums of many


def outside(output: Array, low: float, high: float) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output `[rows, passes, ...]` leaves `low` to `high` by more than rounding."""
    axes = tuple(range(1, output.ndim))
    wrong = (output < low - ROUNDING) | (output > high + ROUNDING)
    return np.asarray(wrong.any(axis=axes))


_LEAST = np.finfo(np.float64).tiny


def surprise(p: Floats) -> Floats:
    """`-p log p` of probabilities, where 0 log 0 is 0; in nats."""
    found: Floats = np.log(np.maximum(p, _LEAST))
    found *= -p
    return found
