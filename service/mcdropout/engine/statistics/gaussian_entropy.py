"""The entropy of a regression's prediction, taken for a Gaussian."""

import numpy as np

from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.field import Field, Summary


def _entropy_of_gaussian(summary: Summary) -> Floats | None:
    """`log(2 pi e variance) / 2`; NaN where the variance is 0, which no density describes."""
    variance: Floats | None = summary["variance"]
    if variance is None:
        return None
    positive = variance > 0.0
    return 0.5 * np.log(2.0 * np.pi * np.e * variance, out=np.full(variance.shape, np.nan), where=positive)


GAUSSIAN_ENTROPY = Field(
    "entropy",
    "Entropy of the Gaussian with that variance, in nats.",
    "[rows, ...]",
    _entropy_of_gaussian,
    _entropy_of_gaussian,
    unit="nats",
)
