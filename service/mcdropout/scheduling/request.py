"""Requests: what was asked for, and what has been found of it so far."""

import heapq
import itertools
import weakref
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.model import Model
from mcdropout.engine import NonFiniteOutputError, Prediction
from mcdropout.engine.arrays import Array
from mcdropout.engine.statistics import concatenate, take

FEWEST_PASSES = 8
"""How many passes a row gets at least, where it may stop early."""


_FEWEST_LOOKED_THROUGH = 64

DEFAULT_TOLERANCE = 0.01
"""Where rows stop by themselves: the standard error of their mean that is small enough, where a request names none."""


class Future(Protocol):
    """Where an answer is awaited: asyncio's futures, or those of threads."""

    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...


class DeadlineError(Exception):
    """A request's time was over before each of its rows had the fewest passes."""


@dataclass(frozen=True)
class Plan:
    """How many passes a request gets.

    Attributes:
        passes: the passes of each row; 0 for the deterministic baseline. With a tolerance or a deadline, the most.
        asked: the passes that were asked for, where they were reduced; else `passes`.
        tolerance: a row stops when no standard error of its mean is above this; None for all passes.
        deadline: when to answer at the latest with what there is, by `time.perf_counter()`; None for no such time.
        samples: whether to keep the samples.
    """

    passes: int
    asked: int | None = None
    tolerance: float | None = None
    deadline: float | None = None
    samples: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of requests with the same can go through their passes side by side."""
        return self.passes, self.tolerance is None, self.deadline is None, self.samples

    @property
    def fewest(self) -> int:
        """The passes that each row gets whatever happens."""
        return min(FEWEST_PASSES, self.passes)


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        prediction: the statistics of its rows.
        samples: `[rows, passes, ...]`, where they were asked for.
        plan: how many passes it was to get.
        queue_seconds: how long it waited for its first step.
        compute_seconds: from there to its last.
    """

    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    plan: Plan
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True)
class Part:
    """What was found of some rows of a request.

    Attributes:
        rows: `[rows]`, which.
        prediction: of those.
        samples: of those, where they are kept.
        failed: `[rows]`, whether an output was NaN or infinite.
    """

    rows: npt.NDArray[np.int64]
    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    failed: npt.NDArray[np.bool_]


@dataclass(eq=False)
class Request:
    """A request on its way.

    Attributes:
        model: which model; a newer version does not matter to it.
        inputs: `[rows, ...]` each.
        seed: what its masks are drawn from.
        plan: how many passes it gets.
        future: where its answer is awaited.
        submitted: when it came, by `time.perf_counter()`.
        started: when its first step began; None before.
        admitted: how many of its rows have begun.
        parts: what was found.
        expected: the passes that it was expected to take, each of one row.
        told: whether it was answered, though its future may not know yet.
    """

    model: Model
    inputs: tuple[Array, ...]
    seed: int
    plan: Plan
    future: Future
    submitted: float
    started: float | None = None
    admitted: int = 0
    parts: list[Part] = field(default_factory=list)
    expected: float = 0.0
    told: bool = False

    def __post_init__(self) -> None:
        self.rows = len(self.inputs[0])
        self.bytes = sum(x.nbytes for x in self.inputs)
        self.left = self.rows

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.told or self.future.done()

    def is_late(self, now: float) -> bool:
        """Whether its time is over."""
        return self.plan.deadline is not None and self.plan.deadline <= now

    def add(self, part: Part) -> bool:
        """Take in what was found of some rows; True where these were the last."""
        self.parts.append(part)
        self.left -= len(part.rows)
        return self.left == 0

    @property
    def mean_passes(self) -> float:
        """How many passes its rows took on average, now that it is answered."""
        return sum(float(part.prediction.passes.sum()) for part in self.parts) / self.rows

    def answer(self, now: float) -> Answer:
        """What it gets.

        Raises:
            NonFiniteOutputError: the network answered NaN or infinity for one of its rows.
        """
        rows = np.concatenate([part.rows for part in self.parts])
        failed = np.sort(rows[np.concatenate([part.failed for part in self.parts])]).tolist()
        if failed:
            raise NonFiniteOutputError(f"the network answered NaN or infinity for row {failed[0]}", failed)
        prediction, samples = self.parts[0].prediction, self.parts[0].samples
        if len(self.parts) > 1:
            order = np.argsort(rows)
            prediction = take(concatenate([part.prediction for part in self.parts]), order)
            if samples is not None:
                samples = np.concatenate([part.samples for part in self.parts if part.samples is not None])[order]
        started = self.started or now
        seed = None if self.plan.passes == 0 else self.seed
        return Answer(replace(prediction, seed=seed), samples, self.plan, started - self.submitted, now - started)


class Deadlines:
    """Requests that have a time to be answered in."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[Request]]] = []  # answered requests are not to be kept
        self._numbers = itertools.count()
        self._most = _FEWEST_LOOKED_THROUGH

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, request: Request) -> None:
        """Take a request in. Those that are over leave, now and then, whatever time they have."""
        if len(self._heap) >= self._most:
            self._heap = [one for one in self._heap if (left := one[-1]()) is not None and not left.over]
            heapq.heapify(self._heap)
            self._most = _FEWEST_LOOKED_THROUGH + 2 * len(self._heap)
        heapq.heappush(self._heap, (deadline, next(self._numbers), weakref.ref(request)))

    def pop(self, now: float) -> set[Request]:
        """Those whose time is over, which leave; none that is over itself."""
        due: set[Request] = set()
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[-1]()
            if request is not None and not request.over:
                due.add(request)
        return due
