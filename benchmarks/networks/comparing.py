"""Whether two sets of passes are from one distribution: bounds that hold for any, and say how often they err.

Differences d of paired passes are symmetric about 0 if both are from the same distribution; then
`P(|sum d| > t sqrt(sum d^2)) <= 2 exp(-t^2 / 2)` (Hoeffding). At most `MOST_VALUES` values of a network are compared,
the means and the variances of each at t = 6, and all its variances together, each in proportion to its size, at t = 5.
One of 100 networks that are right is called wrong by chance in at most 100 (2 x 64 x 2 exp(-18) + 2 exp(-12.5)) = 0.11%
of runs. In 2,000 passes a variance of one value that is roughly normal shows from about a fourth off on, those of many
values together from about a tenth.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_VALUES = 64
MOST_EACH, MOST_TOGETHER = 6.0, 5.0
ROUNDING = 1e-5

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """How far the passes of two are from one another.

    Attributes:
        mean: the largest difference of two means, in standard errors.
        variance: the largest difference of two variances, in standard errors.
        together: the difference of all variances together, in standard errors.
        ratio: the variances of the first, summed up, to those of the second.
    """

    mean: float
    variance: float
    together: float
    ratio: float

    @property
    def far(self) -> bool:
        """Whether they are too far apart for one distribution."""
        return max(self.mean, self.variance) > MOST_EACH or self.together > MOST_TOGETHER


def distance(found: Samples, wanted: Samples) -> Distance:
    """How far `found` is from `wanted`, `[passes, ...]` each."""
    found, wanted = (_some(samples.reshape(len(samples), -1)) for samples in (found, wanted))
    scale = ROUNDING * np.maximum(1.0, np.abs(wanted).max())
    mean = _errors(found - wanted, scale)
    squares = np.square(found - found.mean(0)) - np.square(wanted - wanted.mean(0))
    deviations = wanted.std(0)
    variance = _errors(squares, 2 * scale * deviations + scale**2)
    moving = deviations > scale
    together = _errors((squares[:, moving] / np.square(deviations[moving])).sum(1), 1e-3) if moving.any() else 0.0
    total = wanted.var(0).sum()
    return Distance(
        float(mean), float(variance), float(together), float(found.var(0).sum() / total) if total else np.nan
    )


def _errors(differences: Samples, rounding: float | Samples) -> float:
    """The largest mean of differences, `[passes, ...]`, in standard errors; rounding stands for error too."""
    error = np.sqrt(np.square(differences).sum(0)) / len(differences)
    return float((np.abs(differences.mean(0)) / np.sqrt(np.square(error) + np.square(rounding))).max())


def _some(samples: Samples) -> Samples:
    """At most `MOST_VALUES` of the values of a pass, always the same."""
    count = samples.shape[1]
    return samples[:, np.random.default_rng(0).permutation(count)[:MOST_VALUES]]
