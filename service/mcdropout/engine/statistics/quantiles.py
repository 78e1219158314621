"""Quantiles of a mixture of as many Gaussians as there are passes, in memory that does not grow with them."""

from statistics import NormalDist

import numpy as np

from mcdropout.engine.statistics.block import Floats, Rows

CAPACITY = 1024
"""Up to this many passes the mixture is kept as it is, and its quantiles are exact."""
_NEWTON_STEPS, _BISECTION_STEPS = 30, 60
_NEAR = 1e-9
_ROUNDING = 1e-12


def gaussian_quantile(level: float) -> float:
    """The quantile of the standard Gaussian."""
    return NormalDist().inv_cdf(level)


class MixtureQuantiles:
    """A mixture with one Gaussian (or, where its variance is 0, one point) for each pass.

    Whenever there are `CAPACITY` and more to come, neighbours by mean are merged in pairs into the Gaussian of the same
    weight, mean and variance. The mixture keeps its mean and variance exactly; a quantile's level moves by about one
    share in `CAPACITY`.
    """

    def __init__(self) -> None:
        self._means: Floats | None = None  # [components, ...]
        self._variances: Floats = np.zeros(())
        self._weights: Floats = np.zeros(())

    def update(self, means: Floats, variances: Floats) -> None:
        """Take in the Gaussians of some passes, `[rows, passes, ...]` each."""
        means, variances = means.swapaxes(0, 1), variances.swapaxes(0, 1)
        start = 0
        while start < len(means):
            if self._kept == CAPACITY:
                assert self._means is not None
                merged = _merge_neighbours(self._means, self._variances, self._weights)
                self._means, self._variances, self._weights = merged
            end = start + CAPACITY - self._kept  # not beyond: what is merged depends on no block
            self._append(means[start:end], variances[start:end])
            start = end

    @property
    def _kept(self) -> int:
        return 0 if self._means is None else len(self._means)

    def _append(self, means: Floats, variances: Floats) -> None:
        weights = np.ones_like(means)
        if self._means is not None:
            means = np.concatenate([self._means, means])
            variances = np.concatenate([self._variances, variances])
            weights = np.concatenate([self._weights, weights])
        self._means, self._variances, self._weights = means, variances, weights

    def take(self, rows: Rows) -> "MixtureQuantiles":
        """The mixtures of some rows."""
        taken = MixtureQuantiles()
        if self._means is not None:
            taken._means, taken._variances = self._means[:, rows], self._variances[:, rows]
            taken._weights = self._weights[:, rows]
        return taken

    def quantile(self, level: float) -> Floats:
        """The smallest value that a share `level` of the mixture does not exceed, `[rows, ...]`."""
        assert self._means is not None
        weights = self._weights / self._weights.sum(axis=0)
        if not self._variances.any():
            return _quantile_of_points(self._means, weights, level)
        return _quantile_of_gaussians(self._means, np.sqrt(self._variances), weights, level)


def _quantile_of_points(points: Floats, weights: Floats, level: float) -> Floats:
    order = np.argsort(points, axis=0)
    share = np.take_along_axis(weights, order, axis=0).cumsum(axis=0)
    first = (share >= level - _ROUNDING).argmax(axis=0)[None]
    found: Floats = np.take_along_axis(np.take_along_axis(points, order, axis=0), first, axis=0)[0]
    return found


def _quantile_of_gaussians(means: Floats, deviations: Floats, weights: Floats, level: float) -> Floats:
    """Newton's method, kept between bounds that bisection narrows; each value is settled without regard to others.

    A short step of Newton's method shows a near root only where the share is right too: in a Gaussian that is all
    but a point, every step is short.
    """
    low: Floats = (means - 40.0 * deviations).min(axis=0)
    high: Floats = (means + 40.0 * deviations).max(axis=0)
    tolerance = 1e-12 * np.maximum(high - low, np.abs(high))
    # To begin with, the quantile of the one Gaussian with the mixture's mean and variance.
    centre: Floats = (weights * means).sum(axis=0)
    spread = np.sqrt((weights * (np.square(deviations) + np.square(means - centre))).sum(axis=0))
    value: Floats = np.clip(centre + gaussian_quantile(level) * spread, low, high)
    settled = np.zeros(value.shape, bool)
    for number in range(_NEWTON_STEPS + _BISECTION_STEPS):
        excess = (weights * _share_below(value - means, deviations)).sum(axis=0) - level
        high = np.where(excess >= -_ROUNDING, value, high)
        low = np.where(excess >= -_ROUNDING, low, value)
        density = (weights * _density(value - means, deviations)).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = value - excess / density
        within = (step > low) & (step < high) & (number < _NEWTON_STEPS)
        following: Floats = np.where(within, step, 0.5 * (low + high))
        # Judged by Newton's step, even where it is too short to lie within the bounds.
        settled |= (np.abs(step - value) <= tolerance) & (np.abs(excess) <= _NEAR)
        value = np.where(settled, value, following)
        settled |= high - low <= tolerance
        if settled.all():
            break
    return value


def _merge_neighbours(means: Floats, variances: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    order = np.argsort(means, axis=0, kind="stable")
    means, variances, weights = (np.take_along_axis(values, order, axis=0) for values in (means, variances, weights))
    odd = [values[-1:] if len(values) % 2 else values[:0] for values in (means, variances, weights)]
    pairs = len(means) // 2 * 2
    (m1, m2), (v1, v2), (w1, w2) = ((values[:pairs:2], values[1:pairs:2]) for values in (means, variances, weights))
    weight = w1 + w2
    mean = (w1 * m1 + w2 * m2) / weight
    variance = (w1 * v1 + w2 * v2) / weight + w1 * w2 * np.square((m1 - m2) / weight)
    merged = (np.concatenate([new, rest]) for new, rest in zip((mean, variance, weight), odd, strict=True))
    return next(merged), next(merged), next(merged)


def _density(distance: Floats, deviation: Floats) -> Floats:
    is_point = deviation == 0.0
    scale = np.where(is_point, 1.0, deviation)
    density = np.exp(-0.5 * np.square(distance / scale)) / (scale * np.sqrt(2.0 * np.pi))
    return np.where(is_point, 0.0, density)


def _share_below(distance: Floats, deviation: Floats) -> Floats:
    """The share of a Gaussian around 0 that lies at or below `distance`; a step where the deviation is 0."""
    is_point = deviation == 0.0
    share = gaussian_cdf(distance / np.where(is_point, 1.0, deviation))
    return np.where(is_point, (distance >= 0.0).astype(np.float64), share)


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
    size = np.minimum(np.abs(z), 7.0)
    upper = np.exp(-0.5 * z * z) * np.polyval(_NUMERATOR, size) / np.polyval(_DENOMINATOR, size)
    below: Floats = np.where(z >= 0.0, 1.0 - upper, upper)
    return below
