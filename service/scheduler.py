"""The scheduler: rows from many requests to runs of the engine.

A first, simple form: one thread runs the engine; whatever waits when it is free and can be run together is. Its inside
is to be replaced by steps; what it promises stays: `submit`, and answers that do not depend on what shared the run.
"""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from service.engine import NonFiniteOutputError, Prediction
from service.engine.runtimes import Array
from service.engine.statistics import take
from service.engine.steps import Outcome
from service.loading import Model
from service.metrics import Metrics

_log = structlog.get_logger("scheduler")


class OverloadedError(Exception):
    """The queue is full; the request was not taken."""


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        prediction: the statistics of its rows.
        samples: `[rows, passes, ...]`, where they were asked for.
        queue_seconds: how long it waited for the engine.
        compute_seconds: how long the run took that it was part of.
    """

    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True)
class _Job:
    model: Model
    inputs: tuple[Array, ...]
    seed: int
    passes: int
    samples: bool
    future: "Future[Answer]"
    submitted: float

    @property
    def rows(self) -> int:
        return len(self.inputs[0])

    def can_join(self, first: "_Job") -> bool:
        """Whether this job may run together with `first`."""
        return (
            self.model is first.model
            and self.passes == first.passes
            and self.samples == first.samples
            and (self.model.engine.shares_rows or self.passes == 0)
        )


class Scheduler:
    """Runs requests in a thread of its own."""

    def __init__(self, metrics: Metrics, max_queue_rows: int, max_batch_rows: int) -> None:
        """
        Args:
            metrics: where runs are counted.
            max_queue_rows: how many rows may wait.
            max_batch_rows: how many rows of several requests run together.
        """
        self._metrics = metrics
        self._max_queue_rows = max_queue_rows
        self._max_batch_rows = max_batch_rows
        self._waiting: deque[_Job] = deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def submit(
        self, model: Model, inputs: tuple[Array, ...], *, seed: int, passes: int, samples: bool
    ) -> "Future[Answer]":
        """Queue a request; returns at once.

        Args:
            model: which model.
            inputs: `[rows, ...]` each, as the engine's `as_inputs` returns them.
            seed: what its masks are drawn from.
            passes: stochastic passes; 0 for the deterministic baseline.
            samples: whether to keep the samples.

        Returns:
            A future of the answer. It raises `NonFiniteOutputError` where the network answers NaN or infinity.

        Raises:
            OverloadedError: too many rows wait already.
        """
        job = _Job(model, inputs, seed, passes, samples, Future(), time.perf_counter())
        with self._changed:
            if self._stopping:
                raise OverloadedError("the server is stopping")
            if self._waiting and self._waiting_rows + job.rows > self._max_queue_rows:
                raise OverloadedError(f"{self._waiting_rows} rows wait already; {self._max_queue_rows} are accepted")
            self._waiting.append(job)
            self._waiting_rows += job.rows
            self._changed.notify()
        return job.future

    def stop(self) -> None:
        """Finish what waits, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._process(jobs)
            except Exception as error:  # whatever it is, the thread must live, and nobody wait for ever
                _log.exception("a run was not answered", model=jobs[0].model.name, requests=len(jobs))
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(error)

    def _process(self, jobs: list[_Job]) -> None:
        """Run jobs together; if that fails, each on its own, so that it fails only for the one at fault."""
        started = time.perf_counter()
        try:
            outcome = _run(jobs)
        except Exception as error:
            _log.exception("a run failed", model=jobs[0].model.name, requests=len(jobs))
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._process([job])
            return
        self._answer(jobs, outcome, started, time.perf_counter())

    def _next(self) -> list[_Job]:
        """The jobs of the next run, oldest first; none when the scheduler stops."""
        with self._changed:
            taken: list[_Job] = []
            while not taken:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    break
                taken = self._take()
            return taken

    def _take(self) -> list[_Job]:
        """Take the oldest job and those that can join it out of the queue; those that were cancelled leave it."""
        taken: list[_Job] = []
        left: deque[_Job] = deque()
        rows = 0
        for job in self._waiting:
            if taken and not (job.can_join(taken[0]) and rows + job.rows <= self._max_batch_rows):
                left.append(job)
            elif job.future.set_running_or_notify_cancel():
                taken.append(job)
                rows += job.rows
        self._waiting = left
        self._waiting_rows = sum(job.rows for job in left)
        return taken

    def _answer(self, jobs: list[_Job], outcome: Outcome, started: float, ended: float) -> None:
        first_row = 0
        name = jobs[0].model.name
        self._metrics.step_rows.labels(name).observe(sum(job.rows for job in jobs))
        for job in jobs:
            rows = slice(first_row, first_row + job.rows)
            first_row += job.rows
            self._metrics.queue_duration.labels(name).observe(started - job.submitted)
            self._metrics.compute_duration.labels(name).observe(ended - started)
            self._metrics.rows.labels(name).inc(job.rows)
            self._metrics.passes.labels(name).inc(job.rows * max(1, job.passes))
            failed = np.flatnonzero(outcome.failed[rows]).tolist()
            if failed:
                job.future.set_exception(
                    NonFiniteOutputError(f"the network answered NaN or infinity for row {failed[0]}", failed)
                )
                continue
            job.future.set_result(
                Answer(
                    prediction=take(outcome.prediction, rows, job.seed),
                    samples=None if outcome.samples is None else outcome.samples[rows],
                    queue_seconds=started - job.submitted,
                    compute_seconds=ended - started,
                )
            )


def _run(jobs: list[_Job]) -> Outcome:
    first = jobs[0]
    inputs = tuple(np.concatenate(values) for values in zip(*(job.inputs for job in jobs), strict=True))
    seeds = np.concatenate([np.full(job.rows, job.seed, np.uint64) for job in jobs])
    rows = np.concatenate([np.arange(job.rows, dtype=np.uint64) for job in jobs])
    return first.model.engine.run(inputs, seeds, rows, first.passes, samples=first.samples)
