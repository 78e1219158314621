"""The class that is predicted."""

import numpy as np
import numpy.typing as npt

from mcdropout.engine.statistics.field import Field, Summary


def _most_probable(summary: Summary) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = summary["mean"].argmax(axis=1)
    return found


LABEL = Field(
    "label",
    "The most probable class.",
    "[rows, ...]",
    _most_probable,
    _most_probable,
    is_class=True,
    leads=True,
)
