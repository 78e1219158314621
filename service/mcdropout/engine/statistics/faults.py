"""Faults: what is wrong with outputs that no statistic can use, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnusableOutputError
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import ROUNDING
from mcdropout.engine.statistics.value_block import MOST_VALUE, most_noise

Faults = npt.NDArray[np.object_]
"""`[rows]`, a `Fault` for each row that has one; None for the others."""


@dataclass(frozen=True)
class Fault:
    """Why an output is of no use.

    Attributes:
        answered: what the network answered.
        accepted: what is accepted; None where that need not be said.
    """

    answered: str
    accepted: str | None = None

    def of(self, row: int) -> str:
        """A sentence about a row."""
        accepted = "" if self.accepted is None else f"; {self.accepted}"
        return f"the network answered {self.answered} for row {row}{accepted}"


def none_of(rows: int) -> Faults:
    """So many rows without a fault."""
    return np.empty(rows, object)


def check_usable(faults: Faults) -> None:
    """Raise UnusableOutputError for the first row that has a fault."""
    rows = faults.nonzero()[0].tolist()
    if rows:
        raise UnusableOutputError(faults[rows[0]].of(rows[0]), rows)


def faults_of(outputs: Sequence[Array], reading: Reading, wrong: npt.NDArray[np.bool_] | None) -> Faults:
    """What is wrong with the rows `[rows]` of outputs `[rows, passes, ...]` that are of no use; None where none is."""
    faults = none_of(len(outputs[0]))
    if wrong is None:
        return faults
    impossible = reading.task != "regression" and reading.form != "probabilities"  # may be said, by -infinity
    faults[wrong] = Fault("NaN or infinity")
    for row in np.flatnonzero(wrong):
        own = [output[row] for output in outputs]
        if all((output < np.inf).all() if impossible else np.isfinite(output).all() for output in own):
            faults[row] = _fault(own, reading)
    return faults


def _fault(outputs: Sequence[Array], reading: Reading) -> Fault:
    """What is wrong with outputs `[passes, ...]` of a row that are finite, or -infinity for what is impossible."""
    if reading.task == "regression":
        worst = max((float(output.flat[np.abs(output).argmax()]) for output in outputs), key=abs)
        if abs(worst) > MOST_VALUE:
            return Fault(f"{worst:.4g}", f"values from {-MOST_VALUE:g} to {MOST_VALUE:g} are accepted")
        return _noise_fault(outputs[-1], reading)
    (given,) = outputs
    if reading.form == "log_probabilities" and given.max() > ROUNDING:
        return Fault(f"{given.max():.4g} as the logarithm of a probability", "0 or less is accepted")
    if reading.form != "probabilities":
        return Fault("-infinity for each class", "a finite logit for one class or more is accepted")
    low, high = float(given.min()), float(given.max())
    if low < -ROUNDING or high > 1.0 + ROUNDING:
        return Fault(f"{low if low < -ROUNDING else high:.4g} as a probability", "0 to 1 is accepted")
    sums = given.sum(axis=1 if reading.class_axis is None else reading.class_axis)
    worst = float(sums.flat[np.argmax(np.abs(sums - 1.0))])
    return Fault(f"probabilities of classes that sum to {worst:.4g}", "those that sum to 1 are accepted")


def _noise_fault(noise: Array, reading: Reading) -> Fault:
    named = f"as the {(reading.noise or 'log_variance')}, its second output,"
    if reading.noise in ("variance", "std", "scale"):
        return Fault(f"{noise.min():.4g} {named}", "0 or more is accepted")
    return Fault(
        f"{noise.max():.4g} {named}", f"{most_noise(reading):g} or less, whose exponential is finite, is accepted"
    )
