"""Mixtures: quantiles of many at once, whatever the noise around their means is, by Newton's method."""

from collections.abc import Sequence

import numpy as np

from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import mixture_quantiles
from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.gaussians import bounds_of, moments_of, weighted
from mcdropout.engine.statistics.likelihoods import Likelihood

_NEWTON_STEPS, _BISECTION_STEPS = 30, 60
_NEAR = 1e-9
_ROUNDING = 1e-12


def quantiles_of_mixture(
    means: Floats, deviations: Floats, weights: Floats, levels: Sequence[float], likelihood: Likelihood
) -> Floats:
    """The quantiles of mixtures, `[mixtures, levels]`, to about 1e-9 of the level.

    Newton's method, kept between bounds that bisection narrows; each is settled without regard to others. A short step
    of Newton's method shows a near root only where the share is right too: in a component that is all but a point,
    every step is short.

    Args:
        means: `[mixtures, components]`.
        deviations: `[mixtures, components]`; 0 for a point.
        weights: `[components]`, whose sum is 1.
        levels: between 0 and 1.
        likelihood: of each component around its mean.
    """
    if likelihood.native is not None and library.available():
        wanted, begins = np.array(levels, np.float64), np.array([likelihood.quantile(each) for each in levels])
        means, deviations, weights = (np.ascontiguousarray(x, np.float64) for x in (means, deviations, weights))
        return mixture_quantiles(means, deviations, weights, wanted, begins, likelihood.native)
    count, mixtures = len(levels), len(means)
    centre, spread = (np.repeat(x, count) for x in moments_of(means, deviations, weights))
    means, deviations = np.repeat(means, count, axis=0), np.repeat(deviations, count, axis=0)
    level = np.tile(levels, mixtures)
    begin = np.tile([likelihood.quantile(each) for each in levels], mixtures)
    below, above = bounds_of(level)
    low, high = centre + below * spread, centre + above * spread
    tolerance = 1e-12 * np.maximum(high - low, np.abs(high))
    low, high = low - tolerance, high + tolerance
    value = np.clip(centre + begin * spread, low, high)
    found, which = np.empty(value.shape), np.arange(len(value))
    for number in range(_NEWTON_STEPS + _BISECTION_STEPS):
        share, density = _share_and_density(value, means, deviations, weights, likelihood)
        excess = share - level
        high = np.where(excess >= -_ROUNDING, value, high)
        low = np.where(excess >= -_ROUNDING, low, value)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = value - excess / density
        within = (step > low) & (step < high) & (number < _NEWTON_STEPS)
        following: Floats = np.where(within, step, 0.5 * (low + high))
        # Judged by Newton's step, even where it is too short to lie within the bounds.
        near = (np.abs(step - value) <= tolerance) & (np.abs(excess) <= _NEAR)
        found[which] = value = np.where(near, value, following)
        left = np.flatnonzero(~near & (high - low > tolerance))
        if not len(left):
            break
        if len(left) < len(which):
            which, means, deviations, level = which[left], means[left], deviations[left], level[left]
            value, low, high, tolerance = value[left], low[left], high[left], tolerance[left]
    return found.reshape(mixtures, count)


def _share_and_density(
    value: Floats, means: Floats, deviations: Floats, weights: Floats, likelihood: Likelihood
) -> tuple[Floats, Floats]:
    """The share of each mixture at or below a value, a step at a point; and the density there, without the points'."""
    distance = value[:, None] - means
    is_point = deviations == 0.0
    scale = np.where(is_point, 1.0, deviations) if is_point.any() else deviations
    with np.errstate(over="ignore"):
        z = distance / scale
        share, density = likelihood.cdf(z), likelihood.density(z)
    if scale is not deviations:
        share = np.where(is_point, distance >= 0.0, share)
        density = np.where(is_point, 0.0, density)
    return weighted(share, weights), weighted(density / scale, weights)
