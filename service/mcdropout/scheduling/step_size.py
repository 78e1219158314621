"""Step size: how much a step of a lane may hold, and how much of that a turn gets."""

from dataclasses import dataclass

from mcdropout.engine.steps import Steps

_TURNS_A_STEP = 4
# Of the size of steps: what a step makes of it that took too long, at most, or that was full and took less.
_SHRINK, _GROWTH, _NEARLY = 0.25, 1.25, 0.75
# Of the largest size that is tried again, after a step that failed: with each that does not.
_RECOVERY = 1.01
# Steps smaller than this take about as long, for what each costs whatever it holds.
_LEAST_ROWS, _LEAST_PAIRS = 4, 64


class StepSize:
    """How much a step may hold, so that it takes the time that it should: learned from what steps took."""

    def __init__(self, most: int, least: int) -> None:
        self._least, self._most = float(min(least, most)), float(most)
        self._now = self._ceiling = self._most

    @property
    def most(self) -> int:
        """What a step may hold whatever time it takes."""
        return int(self._most)

    @property
    def now(self) -> int:
        """What the next step may hold; at least 1."""
        return max(1, int(self._now))

    def learn(self, used: int, seconds: float, wanted: float) -> None:
        """Learn from a step that held `used`, took so many seconds, and should have taken `wanted`."""
        if seconds > wanted:
            self._now = max(self._least, min(self._now, used) * max(_SHRINK, wanted / seconds))
        elif used >= _NEARLY * self.now:
            self._now = min(self._ceiling, self._now * _GROWTH)
        self._ceiling = min(self._most, self._ceiling * _RECOVERY)

    def halve(self) -> None:
        """Learn from a step that failed: it may have been too large, whatever is worth while."""
        self._now = self._ceiling = max(1.0, self._now / 2)
        self._least = min(self._least, self._now)


@dataclass(frozen=True)
class StepSizes:
    """How large a model's steps may be.

    Attributes:
        rows: how many rows may begin in one.
        pairs: how many pairs may be in one.
    """

    rows: StepSize
    pairs: StepSize

    @classmethod
    def of(cls, steps: Steps, max_rows: int) -> "StepSizes":
        """As large as memory allows; what they should be is learned."""
        return cls(StepSize(max_rows, _LEAST_ROWS), StepSize(steps.most_pairs, _LEAST_PAIRS))

    def suit(self, steps: Steps) -> bool:
        """Whether they are of steps that take as much memory: those of another version of a model may take more."""
        return self.pairs.most == steps.most_pairs


class Budget:
    """What one step has room for.

    Attributes:
        rows: how many rows may still begin in it.
        pairs: how many pairs may still be added.
    """

    def __init__(self, rows: int, pairs: int, *, crowded: bool) -> None:
        """
        Args:
            rows: how many rows may begin in the step.
            pairs: how many pairs may be in it.
            crowded: whether so many wait that what fits into the step is better done one after another.
        """
        self.rows, self.pairs = rows, pairs
        self._rows, self._pairs = rows, pairs
        self._crowded = crowded

    @property
    def left(self) -> bool:
        """Whether there is room for more."""
        return self.rows > 0 and self.pairs > 0

    def turn_pairs(self, needed: int, lag: int = 0) -> int:
        """How many pairs a turn gets of what is needed until the end, of one whose client is so many behind others."""
        whole = needed <= (self._pairs if self._crowded else lag)
        return min(self.pairs, needed if whole else max(1, self._pairs // _TURNS_A_STEP, lag))

    @property
    def ending_pairs(self) -> int:
        """How many pairs what ends gets before what is new, about."""
        return self._pairs // 2

    @property
    def turn_rows(self) -> int:
        """How many rows begin in a turn."""
        return min(self.rows, max(1, self._rows // _TURNS_A_STEP))

    def take(self, rows: int, pairs: int) -> None:
        """Count what was added to the step."""
        self.rows, self.pairs = self.rows - rows, self.pairs - pairs
