"""Predictive entropy `H[mean p]`: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation"."""

from dataclasses import replace

import numpy as np

from mcdropout.engine.statistics.bernoulli_block import bernoulli_entropy
from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.field import Field, Summary


def _entropy_of_mean(summary: Summary) -> Floats:
    """`-sum p log p` over the classes of the mean `[rows, classes, ...]`, where 0 log 0 is 0."""
    mean: Floats = summary["mean"]
    logarithms = np.log(mean, out=np.zeros(mean.shape), where=mean > 0.0)
    entropy: Floats = -(mean * logarithms).sum(axis=1)
    return np.maximum(entropy, 0.0)


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
