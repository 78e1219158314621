"""Gaussians: their distribution function, and quantiles of mixtures of many of them, about as they are."""

from statistics import NormalDist
from typing import Any

import numpy as np

from mcdropout.engine.statistics.block import Floats

_QUICK_STEPS = 24
_NEAR_ENOUGH = 0.01  # of what lies beyond the level
_NARROWEST = 2e-3  # of a mixture's deviation: a component that is all but a point has no slope to go by


def gaussian_quantile(level: float) -> float:
    """The quantile of the standard Gaussian."""
    return NormalDist().inv_cdf(level)


def about_quantile_of_gaussians(means: Floats, deviations: Floats, weights: Floats, level: float) -> Floats:
    """The quantiles of mixtures of Gaussians, `[mixtures]`, to a hundredth of what lies beyond the level.

    A few steps of float32; arguments as for `quantiles_of_mixture`, with means that ascend.

    Newton's method finds where the logarithm of the share has its value, which is nearly straight in a Gaussian's tail.
    It begins where the quantile were if that of the means and that of the noise around them were those of Gaussians.
    """
    if level > 0.5:
        return -about_quantile_of_gaussians(-means[:, ::-1], deviations[:, ::-1], weights[::-1], 1.0 - level)
    centre, spread = moments_of(means, deviations, weights)
    scale = 1.0 / np.where(spread > 0.0, spread, 1.0)[:, None]
    means, deviations = (means - centre[:, None]) * scale, np.maximum(deviations * scale, _NARROWEST)
    noise = gaussian_quantile(level) * np.sqrt(weighted(np.square(deviations), weights))
    squares = _signed_square(_at_level(means, weights, level)) + _signed_square(noise)
    found = np.copysign(np.sqrt(np.abs(squares)), squares).astype(np.float32)
    unit, inverse = means.astype(np.float32), (1.0 / deviations).astype(np.float32)
    shares = weights.astype(np.float32)
    slopes = shares / np.float32(np.sqrt(2.0 * np.pi))
    low, high = (np.full(len(means), bound, np.float32) for bound in bounds_of(level))
    which, value = np.arange(len(means)), found
    for number in range(_QUICK_STEPS):
        z = value[:, None] - unit
        z *= inverse
        bell = np.square(z)
        bell *= np.float32(-0.5)
        np.exp(bell, out=bell)
        share = weighted(_cdf(z, bell), shares)
        bell *= inverse
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            excess = np.log(share / np.float32(level))
            step = value - excess * share / weighted(bell, slopes)
        left = np.flatnonzero(np.abs(excess) > _NEAR_ENOUGH)
        if not len(left):
            break
        np.copyto(high, value, where=excess >= 0.0)
        np.copyto(low, value, where=excess < 0.0)
        within = (step > low) & (step < high) & (number < _QUICK_STEPS // 2)
        value = np.where(within, step, np.float32(0.5) * (low + high))[left]
        which, unit, inverse, low, high = which[left], unit[left], inverse[left], low[left], high[left]
        found[which] = value
    return centre + spread * found


def _signed_square(x: Floats) -> Floats:
    return x * np.abs(x)


def _at_level(ascending: Floats, weights: Floats, level: float) -> Floats:
    """The quantile of points `[mixtures, components]`, on straight lines between the middles of their shares."""
    middles = np.cumsum(weights) - 0.5 * weights
    place = float(np.interp(level, middles, np.arange(len(weights))))
    first = min(int(place), len(weights) - 2)
    return ascending[:, first] + (place - first) * (ascending[:, first + 1] - ascending[:, first])


def moments_of(means: Floats, deviations: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of mixtures, `[mixtures]` each."""
    centre = weighted(means, weights)
    return centre, np.sqrt(weighted(np.square(deviations) + np.square(means - centre[:, None]), weights))


def weighted(numbers: Any, weights: Any) -> Any:
    """The sums of numbers `[mixtures, components]` times weights `[components]`, `[mixtures]`.

    Each is added up in the same order whatever mixtures are beside it, as those of `@` are not.
    """
    return np.einsum("ij,j->i", numbers, weights)


def bounds_of(level: Any) -> tuple[Any, Any]:
    """Where a quantile lies at least and at most, in deviations from the mean: Cantelli's inequality."""
    return -np.sqrt((1.0 - level) / level), np.sqrt(level / (1.0 - level))


_NUMERATOR = (
    3.52624965998911e-02,
    7.00383064443688e-01,
    6.37396220353165,
    3.3912866078383e01,
    1.12079291497871e02,
    2.21213596169931e02,
    2.20206867912376e02,
)
_DENOMINATOR = (
    8.83883476483184e-02,
    1.75566716318264,
    1.6064177579207e01,
    8.67807322029461e01,
    2.96564248779674e02,
    6.37333633378831e02,
    7.93826512519948e02,
    4.40413735824752e02,
)


def gaussian_cdf(z: Floats) -> Floats:
    """The distribution function of the standard Gaussian, to about 1e-14.

    The rational approximation of J. F. Hart et al., "Computer approximations" (1968), number 5666; beyond 7 standard
    deviations, where it loses digits, what is left is less than 1e-12.
    """
    below: Floats = _cdf(z, np.exp(-0.5 * z * z))
    return below


def _cdf(z: Any, bell: Any) -> Any:
    """The same in the precision of `z`, where `exp(-z^2 / 2)` is known."""
    size = np.minimum(np.abs(z), 7.0)
    upper = _polynomial(_NUMERATOR, size)
    upper /= _polynomial(_DENOMINATOR, size)
    upper *= bell
    below = np.copysign(0.5 - upper, z, out=size)
    below += 0.5
    return below


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = x * coefficients[0]
    value += coefficients[1]
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
    return value
