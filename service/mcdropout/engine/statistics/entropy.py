"""Predictive entropy `H[mean p]`: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation"."""

from dataclasses import replace

import numpy as np

from mcdropout.engine.statistics.bernoulli_block import bernoulli_entropy
from mcdropout.engine.statistics.block import Floats, surprise
from mcdropout.engine.statistics.field import Field, Summary


def entropy_of(p: Floats, axis: int) -> Floats:
    """`-sum p log p` over a dimension of probabilities, in nats."""
    entropy: Floats = np.maximum(surprise(p).sum(axis=axis), 0.0)
    return entropy


def _entropy_of_mean(summary: Summary) -> Floats:
    """Of the mean `[rows, classes, ...]`."""
    return entropy_of(summary["mean"], 1)


ENTROPY = Field(
    "entropy",
    "Predictive entropy, in nats: total uncertainty.",
    "[rows, ...]",
    _entropy_of_mean,
    _entropy_of_mean,
    unit="nats",
    histogram="predictive_entropy",
)
LABEL_ENTROPY = replace(
    ENTROPY,
    of_passes=lambda summary: bernoulli_entropy(summary["mean"]),
    of_baseline=lambda summary: bernoulli_entropy(summary["mean"]),
)
