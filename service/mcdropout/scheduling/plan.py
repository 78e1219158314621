"""Plans: how many passes a request gets."""

from typing import NamedTuple

from mcdropout.engine.stopping import FEWEST_PASSES


class Plan(NamedTuple):
    """How many passes a request gets.

    Attributes:
        passes: the passes of each row; 0 for the deterministic baseline. With a tolerance or a deadline, the most.
        asked: the passes that were asked for, where they were reduced; else `passes`.
        tolerance: a row stops when no standard error of its mean is above this; None for all passes.
        deadline: when to answer at the latest with what there is, by `time.perf_counter()`; None for no such time.
        samples: whether to keep the samples.
    """

    passes: int
    asked: int | None = None
    tolerance: float | None = None
    deadline: float | None = None
    samples: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of requests whose plans have the same key can go through their passes side by side."""
        return self.passes, self.tolerance is None, self.deadline is None, self.samples

    @property
    def fewest(self) -> int:
        """The passes that each row gets whatever happens."""
        return min(FEWEST_PASSES, self.passes)
