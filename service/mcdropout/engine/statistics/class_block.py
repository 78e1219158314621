"""What passes say of classes. In a block these lie along the first dimension after rows and passes, wherever the
network has them: `[rows, passes, classes, ...]`; the rest are places of a dense output.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import MOST_CLASSES, class_sums
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, Moments, SummedBlock, moments_of, not_finite, outside

CLASS_AXIS = 2  # of blocks [rows, passes, classes, ...]


class Scores(NamedTuple):
    """What each of some passes says of the classes. The logarithm of a probability is `scores - log_total`.

    Attributes:
        samples: `[rows, passes, classes, ...]`, class probabilities, `exp(scores) / exp(log_total)`.
        scores: `[rows, passes, classes, ...]`, logits less the largest of their pass: at most 0; -infinity for a class
            that is impossible.
        log_total: `[rows, passes, ...]`.
    """

    samples: Floats
    scores: Floats
    log_total: Floats


class ClassBlock(SummedBlock):
    """Some passes of a classifier: moments and votes are `[rows, classes, ...]`.

    A pass votes for the class that it finds the most probable, the first of several.
    """

    def _sum(self) -> None:
        self.moments = moments_of(self.samples)
        self.entropy = _entropies(self._scores).sum(axis=1)
        self.votes = _firsts(self.scores == 0.0).sum(axis=1, dtype=np.int64)

    def _unusable(self, outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
        return unusable_classes(outputs, self._reading)

    def _harmless(self) -> float:
        if self._reading.form != "probabilities":
            return 0.0
        return 1.0 / int(self._given.shape[_class_axis(self._reading) + 1])

    def _sum_natively(self) -> bool:  # not dense outputs, which NumPy reads faster
        given, reading = self._given, self._reading
        if (
            given.ndim != 3
            or given.dtype != np.float32
            or _class_axis(reading) != 1
            or not 0 < given.shape[2] <= MOST_CLASSES
            or not library.available()
        ):
            return False
        sums = class_sums(np.ascontiguousarray(given), reading.form or "logits", reading.temperature)
        if not sums.usable:
            return False
        self.moments = Moments(given.shape[1], sums.mean, sums.squares)
        self.entropy, self.votes = sums.entropy, sums.votes
        return True

    @property
    def samples(self) -> Floats:
        """As `Scores.samples`."""
        return self._scores.samples

    @property
    def scores(self) -> Floats:
        """As `Scores.scores`."""
        return self._scores.scores

    @property
    def log_total(self) -> Floats:
        """As `Scores.log_total`."""
        return self._scores.log_total

    @cached_property
    def _scores(self) -> Scores:
        return _read(self._given, self._reading)


def _read(given: Array, reading: Reading) -> Scores:
    """The scores of outputs `[rows, passes, ...]` that are of use.

    A softmax of logarithms of probabilities gives these again, so that both are divided by the temperature and read as
    logits are.
    """
    axis = _class_axis(reading) + 1
    # In memory the classes come first: sums over them then run along whole rows of numbers, not over ten at a time.
    others = [dimension for dimension in range(given.ndim) if dimension != axis]
    classes_first = np.array(given.transpose(axis, *others), np.float64, order="C")
    scores = classes_first.transpose(1, 2, 0, *range(3, given.ndim))
    if reading.form == "probabilities":
        with np.errstate(divide="ignore"):
            np.log(np.maximum(scores, 0.0, out=scores), out=scores)
    with np.errstate(over="ignore"):  # of two that lie that far apart, the lesser has the probability 0
        scores -= scores.max(axis=CLASS_AXIS, keepdims=True)
        if reading.temperature != 1.0:
            scores /= reading.temperature
    odds = np.exp(scores)
    total = odds.sum(axis=CLASS_AXIS, keepdims=True)
    odds /= total
    return Scores(odds, scores, np.log(total.squeeze(CLASS_AXIS)))


def _entropies(read: Scores) -> Floats:
    """`H[p] = -sum p log p` of each pass, `[rows, passes, ...]`, where `log p = score - log total`."""
    with np.errstate(invalid="ignore"):
        entropies: Floats = read.log_total - (read.scores * read.samples).sum(axis=CLASS_AXIS)
    if np.isnan(entropies).any():  # 0 log 0 is 0
        scores = np.where(read.samples > 0.0, read.scores, 0.0)
        entropies = read.log_total - (scores * read.samples).sum(axis=CLASS_AXIS)
    return entropies


def _firsts(best: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the best classes of each pass, `[rows, passes, classes, ...]`, the first; there is one almost always."""
    if np.count_nonzero(best) == best.size // best.shape[CLASS_AXIS]:
        return best
    classes = np.arange(best.shape[CLASS_AXIS]).reshape(-1, *[1] * (best.ndim - CLASS_AXIS - 1))
    firsts: npt.NDArray[np.bool_] = best.argmax(axis=CLASS_AXIS, keepdims=True) == classes
    return firsts


def unusable_classes(outputs: Sequence[Array], reading: Reading) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether an output is NaN or infinite, impossible for every class, or no probability where it is to be.

    A logit of -infinity beside others says that a class is impossible, as a mask of what is allowed does.
    """
    (given,) = outputs
    axis = _class_axis(reading) + 1
    if reading.form == "probabilities":
        return not_finite(outputs) | outside(given, 0.0, 1.0) | outside(given.sum(axis=axis), 1.0, 1.0)
    wrong = np.zeros(len(given), bool)
    if not np.isfinite(given).all():  # almost never; to find the largest of ten at a time takes as long as a softmax
        most = given.max(axis=axis)
        wrong = ~np.isfinite(most).all(axis=tuple(range(1, most.ndim)))
    if reading.form == "log_probabilities":
        wrong |= outside(given, -np.inf, 0.0)
    return wrong


def in_place(values: npt.NDArray[Any], reading: Reading, class_axis: int) -> npt.NDArray[Any]:
    """Values whose classes, or labels, lie along `class_axis`, with them where the network has them."""
    if reading.task not in ("classification", "multilabel"):
        return values
    place = class_axis - 1 + _class_axis(reading)
    return values if place == class_axis else np.moveaxis(values, class_axis, place)


def _class_axis(reading: Reading) -> int:
    """The dimension of an output that holds the classes; the first after the rows where nothing was settled."""
    return 1 if reading.class_axis is None else reading.class_axis
