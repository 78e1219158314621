"""What passes say of labels that are there or not, each for itself: of one ("binary") or of several ("multilabel")."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import label_sums
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, Moments, SummedBlock, moments_of, not_finite, outside, surprise


class BernoulliBlock(SummedBlock):
    """Some passes of labels. For "multilabel" the labels lie along the first dimension after rows and passes.

    The output of "binary" loses its dimension of size 1, if it has one. A pass votes for a label that it finds at or
    above the threshold.
    """

    @property
    def _values(self) -> Array:
        """The output with its labels first, `[rows, passes, ...]`."""
        axis = self._reading.class_axis
        if axis is None:
            return self._given
        behind = axis + 1  # the passes
        binary = self._reading.task == "binary"
        return self._given.squeeze(behind) if binary else np.moveaxis(self._given, behind, 2)

    def _sum(self) -> None:
        self.moments = moments_of(self.samples)
        self.entropy = self._entropies().sum(axis=1)
        self.votes = (self.samples >= self._reading.threshold).sum(axis=1, dtype=np.int64)

    def _unusable(self, outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
        return unusable_labels(outputs, self._reading)

    def _sum_natively(self) -> bool:  # not dense outputs
        values, reading = self._values, self._reading
        if values.ndim > 3 or values.dtype != np.float32 or not library.available():
            return False
        rows, passes, *shape = values.shape
        each = np.ascontiguousarray(values).reshape(rows, passes, math.prod(shape))
        samples, sums = label_sums(each, reading.form or "logits", reading.temperature, reading.threshold)
        if not sums.usable:
            return False
        self.moments = Moments(passes, sums.mean.reshape(rows, *shape), sums.squares.reshape(rows, *shape))
        self.entropy, self.votes = sums.entropy.reshape(rows, *shape), sums.votes.reshape(rows, *shape)
        self.samples = samples.reshape(values.shape)
        return True

    @cached_property
    def samples(self) -> Floats:
        """`[rows, passes, ...]`, the probability of each label."""
        if self._is_given:
            return np.clip(self._values.astype(np.float64), 0.0, 1.0)
        return sigmoid(self._logits)

    @property
    def _is_given(self) -> bool:
        """Whether the outputs are the probabilities, which no logit needs to round."""
        return self._reading.form == "probabilities" and self._reading.temperature == 1.0

    @cached_property
    def _logits(self) -> Floats:
        """`[rows, passes, ...]`, divided by the temperature."""
        return _logits(self._values.astype(np.float64), self._reading) / self._reading.temperature

    def _entropies(self) -> Floats:
        """`[rows, passes, ...]`, of each label."""
        if self._is_given:
            return bernoulli_entropy(self.samples)
        logits = self._logits
        with np.errstate(invalid="ignore"):
            entropies: Floats = self.samples * _softplus(-logits) + sigmoid(-logits) * _softplus(logits)
        return np.nan_to_num(entropies, copy=False)  # 0 log 0 is 0


def unusable_labels(outputs: Sequence[Array], reading: Reading) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output is NaN or infinite, or no probability where it is to be one.

    A logit of -infinity says that a label is impossible.
    """
    (given,) = outputs
    if reading.form == "probabilities":
        return not_finite(outputs) | outside(given, 0.0, 1.0)
    if reading.form == "log_probabilities":
        return np.isnan(given).any(axis=tuple(range(1, given.ndim))) | outside(given, -np.inf, 0.0)
    return np.asarray(~(given < np.inf).all(axis=tuple(range(1, given.ndim))))


def _logits(values: Floats, reading: Reading) -> Floats:
    if reading.form in (None, "logits"):
        return values
    with np.errstate(divide="ignore"):
        if reading.form == "probabilities":
            p = np.clip(values, 0.0, 1.0)
            logits: Floats = np.log(p) - np.log1p(-p)
        else:
            log_p = np.minimum(values, 0.0)
            logits = log_p - np.log(-np.expm1(log_p))
    return logits


def sigmoid(logits: Floats) -> Floats:
    """`1 / (1 + exp(-x))`, without overflow."""
    powers = np.exp(-np.abs(logits))
    share: Floats = np.where(logits >= 0.0, 1.0, powers) / (1.0 + powers)
    return share


def _softplus(x: Floats) -> Floats:
    """`log(1 + exp(x))`, without overflow."""
    positive: Floats = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return positive


def bernoulli_entropy(p: Floats) -> Floats:
    """`-p log p - (1 - p) log(1 - p)`, where 0 log 0 is 0; in nats."""
    return np.maximum(surprise(p) + surprise(1.0 - p), 0.0)
