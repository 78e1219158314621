"""Stopping: rows that get as many passes as they need, until the standard error of their mean is small enough.

Rows are looked at after the same numbers of passes whatever runs beside them, so that the same seed gives the same
answer. Stopping when the error looks small makes it look smaller than it is, so that one more deviation is reckoned
with: see `RunningMoments.std_error`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.steps import Outcome, Steps

FEWEST_PASSES = 8
"""How many passes a row gets at least, where it may stop early."""
DEFAULT_TOLERANCE = 0.01
"""The standard error of the mean that is small enough, where none is named."""
PRIOR = 0.5
"""What one more deviation is reckoned with, in tolerances."""


def next_look(passes: int, fewest: int) -> int:
    """After how many passes, more than so many, it is seen next whether rows may stop: by a quarter more each time."""
    look = fewest
    while look <= passes:
        look += max(1, look // 4)
    return look


def is_look(passes: int, fewest: int) -> bool:
    """Whether it is seen after so many passes whether rows may stop."""
    return next_look(passes - 1, fewest) == passes


def until(
    steps: Steps,
    inputs: tuple[Array, ...],
    seeds: npt.NDArray[np.uint64],
    indices: npt.NDArray[np.uint64],
    most: int,
    tolerance: float,
    ran: Callable[[int], object] = lambda _pairs: None,
) -> Iterator[tuple[npt.NDArray[np.int64], Outcome]]:
    """Run rows until their means' standard errors are within a tolerance; yield those that are, with their places.

    Args:
        steps: what runs them.
        inputs: `[rows, ...]` each.
        seeds: `[rows]`, as `Steps.cohort` takes them.
        indices: `[rows]`, each row's index in its request.
        most: the passes that a row gets at most.
        tolerance: in the unit of the mean.
        ran: called after each step with the passes that were run in it, of all rows.
    """
    fewest = min(FEWEST_PASSES, most)
    places = np.arange(len(indices), dtype=np.int64)
    cohort = steps.cohort(steps.admit(inputs), places, seeds, indices)
    while len(cohort):
        look = min(most, next_look(cohort.passes, fewest))
        while cohort.passes < look:
            passes = min(look - cohort.passes, steps.most_passes(len(cohort)))
            steps.run([(cohort, passes)])
            ran(passes * len(cohort))
        errors = cohort.statistics.std_error(PRIOR * np.full(len(cohort), tolerance))
        done = np.full(len(cohort), cohort.passes == most)
        if is_look(cohort.passes, fewest):
            done |= errors.reshape(len(cohort), -1).max(axis=1) <= tolerance
        if done.any():
            found = cohort.take(done)
            prediction = found.prediction()
            values = {**prediction.values, "std_error": errors[done]}
            yield found.places, Outcome(replace(prediction, values=values), None, found.faults)
            cohort = cohort.take(~done)
