"""Mean over the passes, its spread and its standard error.

The variance of class probabilities over passes: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation". The
variance over passes of a regression's mean is its epistemic variance: Kendall & Gal 2017, "What uncertainties do we
need in Bayesian deep learning for computer vision?".
"""

from typing import Any

import numpy as np

from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.field import Field, Summary


def _mean(summary: Summary) -> Floats:
    return np.ascontiguousarray(summary.moments.mean)


def _mean_of_one_pass(summary: Summary) -> Floats:
    return np.ascontiguousarray(summary.block.moments.mean)


def _variance(summary: Summary) -> Floats:
    return summary.moments.variance()


CLASS_MEAN = Field(
    "mean",
    "Mean probability of each class over the passes.",
    "[rows, classes, ...]",
    _mean,
    _mean_of_one_pass,
    json_type=list[Any],
    per_class=True,
)
CLASS_VARIANCE = Field(
    "variance",
    "Unbiased variance of each probability over the passes.",
    "[rows, classes, ...]",
    _variance,
    json_type=list[Any],
    per_class=True,
)
CLASS_STD_ERROR = Field(
    "std_error",
    "Standard error of each mean: sqrt(variance / passes).",
    "[rows, classes, ...]",
    lambda summary: np.sqrt(summary["variance"] / summary.passes),
    json_type=list[Any],
    per_class=True,
)
LABEL_MEAN = Field(
    "mean",
    "Mean probability over the passes.",
    "[rows, ...]",
    _mean,
    _mean_of_one_pass,
    json_type=float | list[Any],
)
LABEL_VARIANCE = Field(
    "variance",
    "Unbiased variance of the probability over the passes.",
    "[rows, ...]",
    _variance,
)
LABEL_STD_ERROR = Field(
    "std_error",
    "Standard error of the mean: sqrt(variance / passes).",
    "[rows, ...]",
    lambda summary: np.sqrt(summary["variance"] / summary.passes),
)
VALUE_MEAN = Field(
    "mean",
    "Mean over the passes.",
    "[rows, ...]",
    _mean,
    _mean_of_one_pass,
    unit="the target's",
    json_type=float | list[Any],
)
VALUE_STD_ERROR = Field(
    "std_error",
    "Standard error of the mean.",
    "[rows, ...]",
    lambda summary: np.sqrt(summary["epistemic_variance"] / summary.passes),
    unit="the target's",
)
EPISTEMIC_VARIANCE = Field(
    "epistemic_variance",
    "Unbiased variance of the predicted mean over the passes.",
    "[rows, ...]",
    _variance,
    unit="the target's, squared",
    histogram="epistemic_variance",
)
