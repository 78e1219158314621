"""What passes say of labels that are there or not, each for itself: of one ("binary") or of several ("multilabel")."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, not_finite, outside


class BernoulliBlock(NamedTuple):
    """Some passes of labels. For "multilabel" the labels lie along the first dimension after rows and passes.

    Attributes:
        samples: `[rows, passes, ...]`, the probability of each label.
        entropies: `[rows, passes, ...]`, the entropy of each, in nats.
        votes: `[rows, passes, ...]`, whether it is at or above the threshold.
    """

    samples: Floats
    entropies: Floats
    votes: npt.NDArray[np.bool_]


def read_labels(outputs: Sequence[Array], reading: Reading) -> BernoulliBlock:
    """The block of one output `[rows, passes, ...]` of logits or probabilities.

    Logits are divided by the temperature. The one of "binary" loses its dimension of size 1, if it has one; the labels
    of "multilabel" come first.
    """
    (given,) = outputs
    values = given.astype(np.float64)
    if reading.class_axis is not None:
        axis = reading.class_axis + 1  # behind the passes
        values = values.squeeze(axis) if reading.task == "binary" else np.moveaxis(values, axis, 2)
    if reading.form == "probabilities" and reading.temperature == 1.0:
        p = np.clip(values, 0.0, 1.0)
        return BernoulliBlock(p, bernoulli_entropy(p), p >= reading.threshold)
    logits = _logits(values, reading) / reading.temperature
    p, q = sigmoid(logits), sigmoid(-logits)
    with np.errstate(invalid="ignore"):
        entropies = p * _softplus(-logits) + q * _softplus(logits)
    np.nan_to_num(entropies, copy=False)  # 0 log 0 is 0
    return BernoulliBlock(p, entropies, p >= reading.threshold)


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
    total = np.zeros(p.shape)
    for part in (p, 1.0 - p):
        total -= part * np.log(part, out=np.zeros(p.shape), where=part > 0.0)
    return np.maximum(total, 0.0)
