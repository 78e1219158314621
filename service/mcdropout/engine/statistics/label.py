"""What is predicted: the class, or whether a label is there."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mcdropout.engine.statistics.field import Field, Summary


def _most_probable(summary: Summary) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = summary["mean"].argmax(axis=1)
    return found


def _is_there(summary: Summary) -> npt.NDArray[np.bool_]:
    there: npt.NDArray[np.bool_] = summary["mean"] >= summary.reading.threshold
    return there


def _yes_or_no(summary: Summary) -> npt.NDArray[np.int64]:
    return _is_there(summary).astype(np.int64)


LABEL = Field(
    "label",
    "The most probable class.",
    "[rows, ...]",
    _most_probable,
    _most_probable,
    is_class=True,
    leads=True,
)
BINARY_LABEL = replace(
    LABEL,
    description="The second label, or 1, where the mean is at or above the threshold; else the first, or 0.",
    of_passes=_yes_or_no,
    of_baseline=_yes_or_no,
)
LABELS = replace(
    LABEL,
    description="Whether each label's mean is at or above the threshold.",
    of_passes=_is_there,
    of_baseline=_is_there,
    is_class=False,
)
