"""What is seen of a network that is to be read: what it says and answers, and how that is refused in words."""

import itertools
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
        examples: its inputs, `[rows, ...]` each.
        spatial: which of them have steps or places. One of numbers in a single dimension has features, whose count says
            nothing of the output's dimensions.
        answers: its outputs, with nothing dropped and under masks: `[rows, ...]` each, the same shapes in each.
        scaled: what it answers, with nothing dropped, to its examples times a number; None where it does not.
        resized: the shape of its first output for other inputs; None where it does not run.
    """

    reading: Reading
    evidence: Evidence
    examples: tuple[Array, ...]
    spatial: tuple[bool, ...]
    answers: Sequence[tuple[Array, ...]]
    scaled: Callable[[float], Array | None]
    resized: Callable[[Sequence[Array]], tuple[int, ...] | None]

    @property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of those inputs that have steps or places, without the rows."""
        return tuple(x.shape[1:] for x, own in zip(self.examples, self.spatial, strict=True) if own)

    @cached_property
    def followed(self) -> "Followed":
        """Which dimensions of the output follow the sizes of inputs, as far as these can be changed."""
        changed: set[int] = set()
        axes: set[int] = set()
        for index, axis in (
            (i, a) for i, own in enumerate(self.spatial) if own for a in range(1, self.examples[i].ndim)
        ):
            size = self.examples[index].shape[axis]
            together = {i for i, x in enumerate(self.examples) if x.ndim > axis and x.shape[axis] == size}
            for others, other in itertools.product((together, {index}), (size // 2, size - 1, 2 * size)):
                if other < 1 or other == size:
                    continue
                inputs = [_of_size(x, axis, other) if i in others else x for i, x in enumerate(self.examples)]
                shape = self.resized(inputs)
                if shape is not None and len(shape) == len(self.shape) and shape[0] == self.shape[0]:
                    changed.add(index)
                    axes |= {place for place, (a, b) in enumerate(zip(shape, self.shape, strict=True)) if a != b}
                    break
        return Followed(frozenset(axes), frozenset(changed))

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
        """As `are_of_an_input`, of any."""
        return any(are_of_an_input(sizes, x) for x in self.inputs)

    def within(self, axis: int, held: str = "classes") -> int:
        """A dimension of the output other than the rows, counted from the front; `held` is what it is to hold."""
        dimensions = len(self.shape)
        found = axis + dimensions if axis < 0 else axis
        if not 1 <= found < dimensions:
            raise refused(
                self,
                f"and dimension {axis} is to hold the {held}; 1 to {dimensions - 1}, or -1 for the last, is accepted",
            )
        return found


def are_of_an_input(sizes: tuple[int, ...], x: tuple[int, ...]) -> bool:
    """Whether these are the sizes of an input's places, or, where they are two or more, the same part of each.

    An input has one more dimension than places, its channels or features, or none more.
    """
    own = x[len(x) - len(sizes) :]
    if not len(sizes) <= len(x) <= len(sizes) + 1 or not sizes:
        return False
    return own == sizes or (len(sizes) > 1 and len({a / b for a, b in zip(own, sizes, strict=True) if b}) == 1)


@dataclass(frozen=True)
class Followed:
    """What follows the sizes of inputs.

    Attributes:
        axes: of the output, those whose sizes do.
        inputs: those some of whose sizes could be changed.
    """

    axes: frozenset[int]
    inputs: frozenset[int]


def _of_size(x: Array, axis: int, size: int) -> Array:
    """The first entries along a dimension, which begin anew where there are fewer."""
    taken: Array = np.take(x, np.arange(size) % x.shape[axis], axis=axis)
    return taken


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
