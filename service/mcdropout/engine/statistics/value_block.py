"""What passes say of values. A network gives one output, the mean, or two: its noise too; or quantiles."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, Moments, cleared, moments_of, not_finite
from mcdropout.engine.statistics.likelihoods import likelihood_of
from mcdropout.engine.statistics.quantile_heads import ascending, heads_of, mean_and_variance

_MOST_LOG_VARIANCE = 700.0  # beyond it exp overflows
MOST_VALUE = 1e150
"""The largest value whose squares, and sums of these over passes, float64 holds."""


class ValueBlock(NamedTuple):
    """Some passes of a regression.

    Attributes:
        samples: `[rows, passes, ...]`, the predicted means.
        noise: `[rows, passes, ...]`, the variance of the noise as the network predicts it, else as it is given; None
            where it is unknown.
        given: the noise's variance where it is given, and so the same in all of `noise`.
        quantiles: `[rows, passes, ..., levels]`, ascending, where the network predicts them.
        levels: theirs.
        narrow: whether float32 holds each of `samples` as it is.
        wrong: as for every block.
    """

    samples: Floats
    noise: Floats | None
    given: float | None = None
    quantiles: Floats | None = None
    levels: tuple[float, ...] | None = None
    narrow: bool = False
    wrong: npt.NDArray[np.bool_] | None = None

    @property
    def moments(self) -> Moments:
        """Of the samples."""
        return moments_of(self.samples)


def read_values(outputs: Sequence[Array], reading: Reading) -> ValueBlock:
    """The block of one output, two, or one for each quantile, `[rows, passes, ...]` each."""
    wrong = unusable_values(outputs, reading)
    if wrong.any():
        return _read(cleared(outputs, wrong), reading)._replace(wrong=wrong)
    return _read(outputs, reading)


def _read(outputs: Sequence[Array], reading: Reading) -> ValueBlock:
    """The block of outputs that are of use."""
    if reading.quantiles is not None:
        quantiles = ascending(outputs, reading.quantile_axis)
        return ValueBlock(
            *mean_and_variance(quantiles, heads_of(reading.quantiles)), None, quantiles, reading.quantiles
        )
    means, narrow = outputs[0].astype(np.float64), outputs[0].dtype.itemsize <= 4
    if len(outputs) > 1:
        noise = _of_each_value(outputs[1].astype(np.float64), means.shape)
        return ValueBlock(means, _variance(noise, reading), narrow=narrow)
    if reading.noise_variance is not None:
        given = np.float64(reading.noise_variance)
        return ValueBlock(means, np.broadcast_to(given, means.shape), float(given), narrow=narrow)
    return ValueBlock(means, None, narrow=narrow)


def fits_values(noise: Sequence[int], means: Sequence[int]) -> bool:
    """Whether a noise `[rows, ...]` of this shape may be that of values of that shape.

    It is one for each, or one for all that lie along the last dimension, which it then has in size 1 or not at all, as
    `torch.nn.GaussianNLLLoss` takes them.
    """
    noise, means = tuple(noise), tuple(means)
    return noise == (*means, 1) or (len(noise) > 0 and noise in (means, means[:-1], (*means[:-1], 1)))


def _of_each_value(noise: Floats, shape: tuple[int, ...]) -> Floats:
    """A noise that fits values `[rows, passes, ...]` of a shape, in that shape."""
    if noise.ndim > len(shape):
        return noise[..., 0]
    if noise.shape == shape:
        return noise
    return np.broadcast_to(noise if noise.ndim == len(shape) else noise[..., None], shape)


def _variance(noise: Floats, reading: Reading) -> Floats:
    """The variance of the noise, as the network says it."""
    match reading.noise:
        case "variance":
            return noise
        case "std":
            return np.square(noise)
        case "scale":
            return np.square(noise) * likelihood_of(reading).scale_variance
        case "log_scale":
            return np.exp(2.0 * noise) * likelihood_of(reading).scale_variance
        case _:
            return np.exp(noise)


def most_noise(reading: Reading) -> float:
    """The largest logarithm of a noise whose variance float64 holds."""
    return _MOST_LOG_VARIANCE / 2.0 if reading.noise == "log_scale" else _MOST_LOG_VARIANCE


def unusable_values(outputs: Sequence[Array], reading: Reading) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output is NaN, or it or its square infinite, or a noise is none: negative, or too large."""
    wrong = not_finite(outputs)
    for output in (output for output in outputs if output.dtype.itemsize > 4):  # float32 holds none so large
        wrong |= (np.abs(output) > MOST_VALUE).any(axis=tuple(range(1, output.ndim)))
    if len(outputs) == 2 and reading.quantiles is None:
        noise = outputs[1]
        is_log = reading.noise not in ("variance", "std", "scale")
        none = noise > most_noise(reading) if is_log else noise < 0.0
        if none.any():  # almost never
            wrong |= none.any(axis=tuple(range(1, noise.ndim)))
    return wrong
