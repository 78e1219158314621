"""The interval that holds a share of a regression's predictive mixture and leaves out as much on each side."""

import numpy as np

from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.field import Field, Summary
from mcdropout.engine.statistics.likelihoods import likelihood_of
from mcdropout.engine.statistics.quantile_heads import heads_of
from mcdropout.engine.statistics.quantiles import MixtureQuantiles
from mcdropout.engine.statistics.value_block import ValueBlock


class Mixture:
    """The predictive mixture of the passes so far: a noise around each mean, or a point where none is known.

    What a pass predicts by quantiles is as many points, equally likely, as `Heads.points` has.
    """

    def __init__(self) -> None:
        self.quantiles = MixtureQuantiles()

    def update(self, block: ValueBlock) -> None:
        """Take in what each pass predicts."""
        if block.quantiles is not None:
            assert block.levels is not None
            points = block.quantiles @ heads_of(block.levels).points.T
            self.quantiles.update(np.moveaxis(points, -1, 2).reshape(len(points), -1, *block.samples.shape[2:]))
        elif block.given is not None or block.noise is None:
            self.quantiles.update(block.samples, block.given or 0.0, narrow=block.narrow)
        else:
            self.quantiles.update(block.samples, block.noise, narrow=block.narrow)

    def take(self, rows: Rows) -> "Mixture":
        """The same of some rows."""
        taken = Mixture()
        taken.quantiles = self.quantiles.take(rows)
        return taken


def _levels(summary: Summary) -> tuple[float, float]:
    share = summary.reading.interval
    assert share is not None  # else there is no such field
    return (1.0 - share) / 2.0, (1.0 + share) / 2.0


def _of_mixture(summary: Summary) -> Floats:
    return summary.state(Mixture).quantiles.quantiles(_levels(summary), likelihood_of(summary.reading))


def _of_one_pass(summary: Summary) -> Floats | None:
    levels = summary.reading.quantiles
    if levels is not None:
        heads, quantiles = heads_of(levels), summary.block.quantiles[:, 0]
        return np.stack([quantiles @ heads.at(level) for level in _levels(summary)], axis=-1)
    mean, variance = summary["mean"], summary["variance"]
    if variance is None:
        return None
    steps = [likelihood_of(summary.reading).quantile(level) for level in _levels(summary)]
    return np.stack([mean + step * np.sqrt(variance) for step in steps], axis=-1)


INTERVAL = Field(
    "interval",
    "Lower and upper quantile of the predictive mixture; null where the model's interval is none.",
    "[rows, ..., 2]",
    _of_mixture,
    _of_one_pass,
    known_for=lambda reading: reading.interval is not None,
    unit="the target's",
    state=Mixture,
    trailing=1,
)
