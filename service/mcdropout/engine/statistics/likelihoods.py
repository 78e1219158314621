"""Likelihoods: how a regression's noise is distributed around the mean that a pass predicts.

Each is described by its distribution of mean 0 and variance 1, so that mixtures of them need deviations alone. Kendall
& Gal 2017, "What uncertainties do we need in Bayesian deep learning for computer vision?", use the Laplace distribution
beside the Gaussian; K. L. Lange et al. 1989, "Robust statistical modeling using the t distribution", Student's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats
from mcdropout.engine.statistics.gaussians import gaussian_cdf, gaussian_quantile

_STEPS = 2**14  # of the table of Student's distribution; its error is less than 1e-12
_NEWTON_STEPS = 60


@dataclass(frozen=True)
class Likelihood:
    """A distribution of mean 0 and variance 1.

    Attributes:
        scale_variance: its variance where its own scale is 1: a Laplace distribution of scale b has `2 b^2`.
        cdf: the share at or below a value.
        density: its density there.
        quantile: the value that a share does not exceed.
        native: its number in the C extension; None where that does not know it.
    """

    scale_variance: float
    cdf: Callable[[Floats], Floats]
    density: Callable[[Floats], Floats]
    quantile: Callable[[float], float]
    native: int | None = None


def likelihood_of(reading: Reading) -> Likelihood:
    """The likelihood that a reading names."""
    if reading.likelihood == "laplace":
        return LAPLACE
    if reading.likelihood == "student_t":
        assert reading.df is not None
        return student_t(reading.df)
    return GAUSSIAN


def _gaussian_density(z: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return density


GAUSSIAN = Likelihood(1.0, gaussian_cdf, _gaussian_density, gaussian_quantile, native=0)


def _laplace_cdf(z: Floats) -> Floats:
    beyond = 0.5 * np.exp(-np.sqrt(2.0) * np.abs(z))
    share: Floats = np.where(z < 0.0, beyond, 1.0 - beyond)
    return share


def _laplace_density(z: Floats) -> Floats:
    density: Floats = np.sqrt(0.5) * np.exp(-np.sqrt(2.0) * np.abs(z))
    return density


def _laplace_quantile(level: float) -> float:
    beyond = min(level, 1.0 - level)
    return float(np.copysign(np.log(2.0 * beyond) / np.sqrt(2.0), level - 0.5))


LAPLACE = Likelihood(2.0, _laplace_cdf, _laplace_density, _laplace_quantile, native=1)


@cache
def student_t(df: float) -> Likelihood:
    """Student's distribution of so many degrees of freedom, more than 2.

    With `t = sqrt(df) tan(a)` its density is that of `cos(a) ** (df - 1)`, which is smooth and ends at right angles, so
    that a table of its sums (Simpson's rule), cubic between its entries, says its distribution function.
    """
    angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, _STEPS + 1)
    slopes = _powers(angles, df)
    middles = _powers(0.5 * (angles[1:] + angles[:-1]), df)
    step = angles[1] - angles[0]
    sums = np.concatenate([[0.0], np.cumsum((slopes[:-1] + 4.0 * middles + slopes[1:]) * (step / 6.0))])
    total = float(sums[-1])
    scale = np.sqrt((df - 2.0) / df)  # of t, where the variance is 1

    def angle_of(z: Floats) -> Floats:
        angle: Floats = np.arctan(z / (scale * np.sqrt(df)))
        return angle

    def cdf(z: Floats) -> Floats:
        place = (angle_of(z) - angles[0]) / step
        first = np.clip(place.astype(np.int64), 0, _STEPS - 1)
        x = place - first
        h = np.array([2 * x**3 - 3 * x**2 + 1, x**3 - 2 * x**2 + x, 3 * x**2 - 2 * x**3, x**3 - x**2])
        found: Floats = (
            h[0] * sums[first] + h[1] * step * slopes[first] + h[2] * sums[first + 1] + h[3] * step * slopes[first + 1]
        ) / total
        return found

    def density(z: Floats) -> Floats:
        angle = angle_of(z)
        found: Floats = _powers(angle, df) * np.square(np.cos(angle)) / (total * scale * np.sqrt(df))
        return found

    def quantile(level: float) -> float:
        low, high = -np.sqrt((1.0 - level) / level), np.sqrt(level / (1.0 - level))  # Cantelli's inequality
        for _ in range(_NEWTON_STEPS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if float(cdf(np.array(middle))) < level else (low, middle)
        return float(0.5 * (low + high))

    return Likelihood(df / (df - 2.0), cdf, density, quantile)


def _powers(angles: Any, df: float) -> Any:
    return np.maximum(np.cos(angles), 0.0) ** (df - 1.0)
