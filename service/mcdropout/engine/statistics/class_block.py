"""What passes say of classes. These lie along the first dimension of an output after its rows and passes, as PyTorch's
losses have it: `[rows, classes]`, or `[rows, classes, height, width]` for a dense output.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats

CLASS_AXIS = 2  # of outputs [rows, passes, classes, ...]


class ClassBlock(NamedTuple):
    """Some passes of a classifier. The logarithm of a probability is `scores - log_total`.

    Attributes:
        samples: `[rows, passes, classes, ...]`, class probabilities, `exp(scores) / exp(log_total)`.
        scores: `[rows, passes, classes, ...]`, logits less the largest of their pass: at most 0; -infinity where the
            probability is 0 because the logit is -infinity.
        log_total: `[rows, passes, ...]`.
    """

    samples: Floats
    scores: Floats
    log_total: Floats


def read_logits(outputs: Sequence[Array], reading: Reading) -> ClassBlock:
    """The block of logits `[rows, passes, classes, ...]`, the one output, which are divided by the temperature."""
    (logits,) = outputs
    # In memory the classes come first: sums over them then run along whole rows of numbers, not over ten at a time.
    space = range(CLASS_AXIS + 1, logits.ndim)
    classes_first = np.array(logits.transpose(CLASS_AXIS, 0, 1, *space), np.float64, order="C")
    scores = classes_first.transpose(1, 2, 0, *space)
    if reading.temperature != 1.0:
        scores /= reading.temperature
    with np.errstate(over="ignore"):  # of two that lie that far apart, the lesser has the probability 0
        scores -= scores.max(axis=CLASS_AXIS, keepdims=True)
    odds = np.exp(scores)
    total = odds.sum(axis=CLASS_AXIS, keepdims=True)
    odds /= total
    return ClassBlock(odds, scores, np.log(total.squeeze(CLASS_AXIS)))


def unusable_logits(outputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether logits `[rows, passes, classes, ...]` are NaN or infinite, or -infinity for every class.

    A logit of -infinity beside others says that a class is impossible, as a mask of what is allowed does.
    """
    (logits,) = outputs
    most = logits.max(axis=CLASS_AXIS)
    wrong: npt.NDArray[np.bool_] = ~np.isfinite(most).all(axis=tuple(range(1, most.ndim)))
    return wrong
