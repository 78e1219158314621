"""What passes say of classes. In a block these lie along the first dimension after rows and passes, wherever the
network has them: `[rows, passes, classes, ...]`; the rest are places of a dense output.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, not_finite, outside

CLASS_AXIS = 2  # of blocks [rows, passes, classes, ...]


class ClassBlock(NamedTuple):
    """Some passes of a classifier. The logarithm of a probability is `scores - log_total`.

    Attributes:
        samples: `[rows, passes, classes, ...]`, class probabilities, `exp(scores) / exp(log_total)`.
        scores: `[rows, passes, classes, ...]`, logits less the largest of their pass: at most 0; -infinity for a class
            that is impossible.
        log_total: `[rows, passes, ...]`.
    """

    samples: Floats
    scores: Floats
    log_total: Floats


def read_classes(outputs: Sequence[Array], reading: Reading) -> ClassBlock:
    """The block of one output `[rows, passes, ...]`: logits, probabilities or their logarithms.

    A softmax of logarithms of probabilities gives these again, so that both are divided by the temperature and read as
    logits are.
    """
    (given,) = outputs
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
    return ClassBlock(odds, scores, np.log(total.squeeze(CLASS_AXIS)))


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
