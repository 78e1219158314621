"""Answers, and the parts that they are put together from: the rows of a request may end in different steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine import Prediction
from mcdropout.engine.statistics import Faults, concatenate, take
from mcdropout.scheduling.plan import Plan


@dataclass(frozen=True)
class Part:
    """What was found of some rows of a request.

    Attributes:
        rows: `[rows]`, their indices in the request.
        prediction: the statistics of those rows.
        samples: `[rows, passes, ...]`, where they are kept.
        faults: `[rows]`, what of an output was of no use, such as NaN; None where nothing was.
    """

    rows: npt.NDArray[np.int64]
    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    faults: Faults


class StepTime(NamedTuple):
    """A step that a request took part in.

    Attributes:
        started: when, by `time.perf_counter()`.
        ended: when.
        rows: how many rows were in it, of all requests.
        pairs: how many passes they took, summed.
        seconds: how long each stage took.
    """

    started: float
    ended: float
    rows: int
    pairs: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        prediction: the statistics of its rows.
        samples: `[rows, passes, ...]`, where they were asked for.
        plan: how many passes it was to get.
        queue_seconds: how long it waited for its first step.
        compute_seconds: from the beginning of its first step to the end of its last.
        steps: its first steps, where it is traced.
    """

    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    plan: Plan
    queue_seconds: float
    compute_seconds: float
    steps: tuple[StepTime, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.prediction.passes)

    @property
    def parts(self) -> "tuple[tuple[npt.NDArray[np.int64], Answer], ...]":
        """Its rows' indices in the request, and itself."""
        return ((np.arange(self.rows, dtype=np.int64), self),)


@dataclass(frozen=True)
class Shares:
    """What a request gets whose rows are of several sizes, so that they were run apart.

    Attributes:
        parts: for the rows of each size, their indices in the request, and the answer to them.
    """

    parts: tuple[tuple[npt.NDArray[np.int64], Answer], ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(len(rows) for rows, _ in self.parts)

    @property
    def plan(self) -> Plan:
        """As of an `Answer`."""
        return self.parts[0][1].plan

    @property
    def steps(self) -> tuple[StepTime, ...]:
        """As of an `Answer`, of all shares, in order."""
        return tuple(sorted((step for _, answer in self.parts for step in answer.steps), key=lambda step: step.started))

    @property
    def queue_seconds(self) -> float:
        """How long the first of its rows waited for a step."""
        return min(answer.queue_seconds for _, answer in self.parts)

    @property
    def compute_seconds(self) -> float:
        """From then to the end of the last step."""
        return max(answer.queue_seconds + answer.compute_seconds for _, answer in self.parts) - self.queue_seconds


def joined(parts: Sequence[Part]) -> Part:
    """One part that holds the rows of all parts of a request, in the order of the request."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    samples = [part.samples for part in parts if part.samples is not None]
    return Part(
        rows[order],
        take(concatenate([part.prediction for part in parts]), order),
        np.concatenate(samples)[order] if samples else None,
        np.concatenate([part.faults for part in parts])[order],
    )
