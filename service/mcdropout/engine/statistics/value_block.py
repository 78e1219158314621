"""What passes say of values. A network gives one output, the mean, or two: the log of the noise's variance too."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, not_finite

_MOST_LOG_VARIANCE = 700.0  # beyond it exp overflows


class ValueBlock(NamedTuple):
    """Some passes of a regression.

    Attributes:
        samples: `[rows, passes, ...]`, the predicted means.
        noise: `[rows, passes, ...]`, the variance of the noise as the network predicts it, else as it is given; None
            where it is unknown.
        given: the noise's variance where it is given, and so the same in all of `noise`.
    """

    samples: Floats
    noise: Floats | None
    given: float | None = None


def read_values(outputs: Sequence[Array], reading: Reading) -> ValueBlock:
    """The block of one output or two, `[rows, passes, ...]` each."""
    means = outputs[0].astype(np.float64)
    if len(outputs) > 1:
        return ValueBlock(means, np.exp(outputs[1].astype(np.float64)))
    if reading.noise_variance is not None:
        given = np.float64(reading.noise_variance)
        return ValueBlock(means, np.broadcast_to(given, means.shape), float(given))
    return ValueBlock(means, None)


def unusable_values(outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output is NaN or infinite, or the logarithm of a variance that float64 cannot hold."""
    wrong = not_finite(outputs)
    if len(outputs) == 2:
        wrong |= (outputs[1] > _MOST_LOG_VARIANCE).any(axis=tuple(range(1, outputs[1].ndim)))
    return wrong
