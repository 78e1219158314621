"""Quantile heads: networks that predict the target's quantiles at given levels (Koenker & Bassett 1978, "Regression
quantiles") in place of a mean and its noise.

What a pass predicts is taken for the distribution whose quantiles lie on straight lines between the predicted ones,
over the standard Gaussian's quantiles at the same levels, and go on beyond the outer two as they came. So a Gaussian is
one exactly, and what is skewed stays so. Its mean is linear in the predicted quantiles, its second moment quadratic.
Predicted quantiles that cross are sorted (Chernozhukov et al. 2010, "Quantile and probability curves without
crossing").
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.gaussians import gaussian_cdf, gaussian_quantile

_POINTS = 32
"""By how many equally likely points a pass's distribution is told to the mixture of all."""


@dataclass(frozen=True)
class Heads:
    """What follows from the levels alone.

    Attributes:
        mean: `[levels]`; the mean of a distribution is its quantiles times these.
        square: `[levels, levels]`; the mean of its square is its quantiles times this times its quantiles.
        points: `[points, levels]`; equally likely points of it are these times its quantiles.
        scores: `[levels]`, of the standard Gaussian.
    """

    mean: Floats
    square: Floats
    points: Floats
    scores: Floats

    def at(self, level: float) -> Floats:
        """`[levels]`; the quantile of a distribution at another level is its quantiles times these."""
        (shares,) = _shares(self.scores, np.array([gaussian_quantile(level)]))
        return np.asarray(shares, np.float64)


@cache
def heads_of(levels: tuple[float, ...]) -> Heads:
    """What follows from levels, at least two, that ascend."""
    scores = np.array([gaussian_quantile(level) for level in levels])
    mean, square = np.zeros(len(levels)), np.zeros((len(levels), len(levels)))
    bounds = np.concatenate([[-np.inf], scores[1:-1], [np.inf]])  # of the straight pieces
    for piece, (low, high) in enumerate(itertools.pairwise(bounds.tolist())):
        left, right = scores[piece], scores[piece + 1]
        # On this piece the quantile at score z is (right - z) / (right - left) of the one, and the rest of the other.
        constant = np.array([right, -left]) / (right - left)
        slope = np.array([-1.0, 1.0]) / (right - left)
        zeroth, first, second = _moments(low, high)
        pair = slice(piece, piece + 2)
        mean[pair] += constant * zeroth + slope * first
        square[pair, pair] += (
            np.outer(constant, constant) * zeroth
            + (np.outer(constant, slope) + np.outer(slope, constant)) * first
            + np.outer(slope, slope) * second
        )
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    points = _shares(scores, np.array([gaussian_quantile(level) for level in middles]))
    return Heads(mean, square, points, scores)


def ascending(outputs: Sequence[Floats], axis: int | None) -> Floats:
    """The predicted quantiles `[rows, passes, ..., levels]`, sorted.

    Args:
        outputs: `[rows, passes, ...]`, one that holds all along a dimension, or one for each level.
        axis: that dimension, the rows being 0 and the passes not counted; None where there is one for each.
    """
    held = np.stack(outputs, axis=-1) if axis is None else np.moveaxis(outputs[0], axis + 1, -1)
    return np.sort(held.astype(np.float64), axis=-1)


def mean_and_variance(quantiles: Floats, heads: Heads) -> tuple[Floats, Floats]:
    """Of the distributions with quantiles `[..., levels]`, `[...]` each."""
    middle = quantiles[..., len(heads.mean) // 2]
    around = quantiles - middle[..., None]  # where numbers are large and differ little, their squares say nothing
    mean = around @ heads.mean
    square = np.einsum("...i,ij,...j->...", around, heads.square, around)
    return middle + mean, np.maximum(square - np.square(mean), 0.0)


def _shares(scores: Floats, z: Floats) -> Floats:
    """`[z, levels]`: what part each predicted quantile has of that at score z."""
    piece = np.clip(np.searchsorted(scores, z) - 1, 0, len(scores) - 2)
    left, right = scores[piece], scores[piece + 1]
    part = (z - left) / (right - left)
    shares = np.zeros((len(z), len(scores)))
    rows = np.arange(len(z))
    shares[rows, piece], shares[rows, piece + 1] = 1.0 - part, part
    return shares


def _moments(low: float, high: float) -> tuple[float, float, float]:
    """The integrals of the standard Gaussian's density times 1, z and z squared, from `low` to `high`."""
    ends = np.array([low, high])
    share = float(np.diff(np.where(np.isinf(ends), ends > 0, gaussian_cdf(np.clip(ends, -40.0, 40.0))))[0])
    density = np.where(np.isinf(ends), 0.0, np.exp(-0.5 * np.square(np.clip(ends, -40.0, 40.0))) / np.sqrt(2 * np.pi))
    edges = np.where(np.isinf(ends), 0.0, ends) * density
    return share, float(density[0] - density[1]), share + float(edges[0] - edges[1])
