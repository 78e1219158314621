"""What is seen of a network that is to be read: what it says and answers, and how that is refused in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.reading import Reading
from mcdropout.engine.settling.evidence import Evidence

_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 2e-2
_LARGE = (1e2, -1e2, 1e4, -1e4)  # times the examples: logits leave 0 to 1 there, and a sigmoid goes to its ends


@dataclass(frozen=True)
class Seen:
    """What is known of a network that is to be read.

    Attributes:
        reading: as far as it is given.
        evidence: what the network says.
        inputs: the shapes of those inputs that have steps or places, without the rows. One of numbers in a single
            dimension has features, whose count says nothing of the output's dimensions.
        answers: its outputs, with nothing dropped and under masks: `[rows, ...]` each, the same shapes in each.
        scaled: what it answers, with nothing dropped, to its examples times a number; None where it does not.
    """

    reading: Reading
    evidence: Evidence
    inputs: tuple[tuple[int, ...], ...]
    answers: Sequence[tuple[Array, ...]]
    scaled: Callable[[float], Array | None]

    @cached_property
    def large(self) -> list[Array]:
        """What it answers, with nothing dropped, to much larger examples; none where these hold no floats."""
        return [values for factor in _LARGE if (values := self.scaled(factor)) is not None]

    @property
    def shapes(self) -> list[list[int]]:
        """Of each output."""
        return [list(output.shape) for output in self.answers[0]]

    @property
    def values(self) -> Array:
        """Every answer's first output, `[answers * rows, ...]`."""
        return np.concatenate([outputs[0] for outputs in self.answers]).astype(np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return tuple(self.answers[0][0].shape)

    @property
    def tolerance(self) -> float:
        """How far probabilities may be from their sum or their bounds."""
        return _HALF_SUM_TOLERANCE if self.answers[0][0].dtype.itemsize < 4 else _SUM_TOLERANCE

    def are_within(self, low: float, high: float) -> bool:
        """Whether all outputs lie between two numbers, those for large inputs too, where there are such."""
        return all(bool(((values >= low) & (values <= high)).all()) for values in (self.values, *self.large))

    def sums_to_one(self, axis: int, *, sign: float = 1.0, logarithm: bool = False) -> bool:
        """Whether all outputs, with that sign, are probabilities along a dimension, or logarithms of some."""
        values = sign * self.values
        if logarithm:
            if (values > self.tolerance).any():
                return False
            values = np.exp(values)
        elif (values < -self.tolerance).any():
            return False
        return bool((np.abs(values.sum(axis=axis) - 1.0) <= self.tolerance).all())

    def is_of_an_input(self, sizes: tuple[int, ...]) -> bool:
        """Whether these are the sizes of an input's places, or, where they are two or more, the same part of each.

        An input has one more dimension than places, its channels or features, or none more.
        """
        for x in self.inputs:
            own = x[len(x) - len(sizes) :]
            if not len(sizes) <= len(x) <= len(sizes) + 1 or not sizes:
                continue
            if own == sizes or (len(sizes) > 1 and len({a / b for a, b in zip(own, sizes, strict=True) if b}) == 1):
                return True
        return False

    def within(self, axis: int) -> int:
        """A dimension of the output other than the rows, counted from the front."""
        dimensions = len(self.shape)
        found = axis + dimensions if axis < 0 else axis
        if not 1 <= found < dimensions:
            raise refused(
                self,
                f"and dimension {axis} is to hold the classes; 1 to {dimensions - 1}, or -1 for the last, is accepted",
            )
        return found


def refused(seen: Seen, why: str) -> UnsupportedModelError:
    """The error that says what the network returns, and why that cannot be read, or what is accepted."""
    rows = seen.shape[0] if seen.shape else 0
    return UnsupportedModelError(f"for {rows} rows the network returns outputs of shape {seen.shapes}; {why}")


def doubted(seen: Seen, why: str) -> UnsupportedModelError:
    """The error that asks what outputs are that hardly are logits."""
    return refused(
        seen,
        f"which are hardly logits: {why}; what they are is not certain, and output: {{as: logits}}, {{as: "
        "probabilities} or {as: log_probabilities} says it (in Python, form)",
    )


def words(*reasons: str | None) -> str | None:
    """Why something was read so, in words; None where there is nothing to say."""
    return "; ".join(reason for reason in reasons if reason) or None
