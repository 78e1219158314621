"""The scheduler: a thread that runs the steps of all models, and the way in and out of it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import InvalidStateError
from contextlib import suppress
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog

from mcdropout.engine.arrays import Array
from mcdropout.metrics import Metrics
from mcdropout.scheduling.answer import Answer, StepTime
from mcdropout.scheduling.backlog import Backlog, Capacity, Claim, OverloadedError
from mcdropout.scheduling.clients import ANYBODY, Client
from mcdropout.scheduling.lane import Lane
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import DeadlineError, Future, Request, Served, State
from mcdropout.scheduling.step import Step, StepReport
from mcdropout.scheduling.step_size import StepSizes

_log = structlog.get_logger("scheduler")

_LOOK_SECONDS = 0.05  # between looks for requests that were cancelled

Outcome = Answer | BaseException
Ended = list[tuple[Request, State, Outcome]]


class Scheduler:
    """Runs requests in a thread of its own.

    What is public is for any thread. The backlog guards itself. The lock, `_changed`, guards the inbox, `_announced`
    and `_stopping`, and nothing else: all other attributes are the scheduler's thread's alone, and so is each request
    from when that thread took it out of the inbox.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_queue_rows: int,
        max_queue_bytes: int = 2**30,
        max_queue_seconds: float | None = None,
        max_request_seconds: float | None = None,
        max_client_share: float = 1.0,
        max_batch_rows: int = 1024,
        step_seconds: float = 0.004,
        deliver: Callable[[Callable[[], object]], object] | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """
        Args:
            metrics: where steps are counted.
            max_queue_rows: how many rows may be on their way.
            max_queue_bytes: how much memory their inputs may take.
            max_queue_seconds: how long their passes may take, by the rate of the steps now; None for any time.
            max_request_seconds: how long those of one request may take, if it is run alone; None for any time.
            max_client_share: how much of all that one client may have on its way, 0 to 1.
            max_batch_rows: how many rows may begin in a step.
            step_seconds: how long a step should take.
            deliver: calls a function, which settles futures, where these may be settled; here and now if None.
            soon: calls a function when who submits has submitted what there is at hand; here and now if None. Until
                then a scheduler that has nothing to do sleeps on, and begins with all of it.
        """
        self._metrics = metrics
        self._backlog = Backlog(
            Capacity(max_queue_rows, max_queue_bytes, max_queue_seconds, max_request_seconds, max_client_share), metrics
        )
        self._max_batch_rows, self._step_seconds = max_batch_rows, step_seconds
        self._deliver, self._soon = deliver or _at_once, soon or _at_once
        self._changed = threading.Condition()
        self._inbox: list[tuple[Request, Claim]] = []
        self._announced = self._stopping = False
        self._active: dict[Request, Claim] = {}  # what was taken out of the inbox and has not ended
        self._lanes: dict[tuple[int, bool], Lane] = {}  # by engine, and whether its requests are run apart
        self._sizes: dict[str, StepSizes] = {}  # of each model's steps, which its next lane begins with
        self._virtual_time = 0.0  # that of the lane that was next when it was: what a new lane begins with
        self._last_end = 0.0  # of a step, behind which there was more to do
        self._look_again = 0.0
        self.step_started: float | None = None
        """When the step that runs now began, by `time.perf_counter()`; None while none does."""
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def queue_rows(self) -> int:
        """Rows that were taken and are not answered yet."""
        return self._backlog.rows

    @property
    def load(self) -> float:
        """How full the backlog is, 0 to 1."""
        return self._backlog.load

    def refusal(self, coming: int = 0, client: Client = ANYBODY) -> OverloadedError | None:
        """Why not one more row of a client is taken, where `coming` are on their way already; None where one is.

        It takes no lock. All who ask between two changes get the same error: raise a copy of it.
        """
        return self._backlog.refusal(coming, client)

    def submit(
        self,
        model: Served,
        inputs: tuple[Array, ...],
        *,
        seed: int,
        plan: Plan,
        future: Future | None = None,
        indices: npt.NDArray[np.int64] | None = None,
        seconds_a_pair: float = 0.0,
        client: Client = ANYBODY,
        watch: Callable[[Answer], object] | None = None,
        traced: bool = False,
    ) -> Future:
        """Take a request in; returns at once.

        Args:
            model: which model.
            inputs: `[rows, ...]` each, as the engine's `as_inputs` returns them.
            seed: what its masks are drawn from.
            plan: how many passes it gets.
            future: where its answer is awaited; a future of threads where not given.
            indices: `[rows]`, the index of each row in what was asked for, where these are not all of it.
            seconds_a_pair: how long a pair takes among many, in seconds; 0 where nobody knows.
            client: who asks.
            watch: called where futures are settled, after steps, with what there is of the answer; with a tenth of the
                time at most, and not once each row is done.
            traced: whether the answer tells which steps it took part in.

        Returns:
            The future. It raises `UnusableOutputError` where the network answers NaN or infinity, and
            `DeadlineError` where the plan's time was too short.

        Raises:
            TooCostlyError: its passes take longer than those of any request may.
            OverloadedError: too much waits already.
        """
        awaited = ThreadFuture() if future is None else future
        request = Request(model, inputs, seed, plan, awaited, time.perf_counter(), indices, client, watch, traced)
        with self._changed:
            if self._stopping:
                raise OverloadedError("the server is stopping", reason="stopping")
            claim = self._backlog.admit(
                model.name,
                request.rows,
                request.bytes,
                plan,
                request.submitted,
                seconds_a_pair=seconds_a_pair,
                client=client,
            )
            self._inbox.append((request, claim))
            announced, self._announced = self._announced, True
        if not announced:
            self._soon(self._announce)
        return request.future

    def _announce(self) -> None:
        """Wake the scheduler's thread, for what was submitted."""
        with self._changed:
            self._announced = False
            self._changed.notify()

    def stop(self) -> None:
        """Finish what is on its way, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        """The scheduler's thread: everything below is called by it."""
        while (lane := self._next()) is not None:
            self._keep_deadlines(lane.last_seconds)
            self._take_in()  # what came meanwhile may be in the step
            self._step(lane)
            del lane  # while nothing is to be done, no model is kept

    def _next(self) -> Lane | None:
        """Whose step is next; None when the scheduler stops."""
        while self._take_in():
            self._look_for_cancelled()
            self._drop_idle()
            if self._lanes:
                lane = min(self._lanes.values(), key=lambda lane: lane.virtual_time)
                self._virtual_time = lane.virtual_time
                return lane
        return None

    def _take_in(self) -> bool:
        """Empty the inbox; where there is nothing to do, wait for what comes. False when nothing will any more."""
        with self._changed:
            if not self._inbox and not self._lanes:
                if self._stopping:
                    return False
                self._last_end = 0.0
                self._changed.wait(_LOOK_SECONDS if self._active else None)
            arrived, self._inbox = self._inbox, []
        for request, claim in arrived:
            self._active[request] = claim
            self._lane_of(request.model).submit(request)
        return True

    def _lane_of(self, model: Served, *, apart: bool = False) -> Lane:
        """A model's lane, of rows of one size. One that had nothing to do has no credit for that."""
        key = id(model.engine), apart
        lane = self._lanes.get(key)
        if lane is None:
            steps = model.engine.steps
            sizes = None if apart else self._sizes.get(model.name)
            if sizes is None or not sizes.suit(steps):
                sizes = StepSizes.of(steps, self._max_batch_rows)
            lane = self._lanes[key] = Lane(model, self._step_seconds, sizes, self._virtual_time, apart=apart)
        return lane

    def _drop_idle(self) -> None:
        """Let go of lanes that have nothing to do, and of their models."""
        for key, lane in [(key, lane) for key, lane in self._lanes.items() if not lane.busy]:
            if not lane.apart:
                self._sizes[lane.model.name] = lane.sizes
            del self._lanes[key]

    def _look_for_cancelled(self) -> None:
        """Count out who was cancelled, now and then."""
        now = time.perf_counter()
        if now < self._look_again:
            return
        self._look_again = now + _LOOK_SECONDS
        if cancelled := [request for request in self._active if request.future.cancelled()]:
            for request in cancelled:
                request.become(State.CANCELLED)
                self._metrics.of(self._metrics.cancelled, request.model.name).inc()
            self._release(cancelled)

    def _keep_deadlines(self, seconds: float) -> None:
        """Answer whose time will be over after a step of so many seconds, of whatever model, with what there is."""
        now = time.perf_counter() + seconds
        for lane in self._lanes.values():
            if not lane.hurries:
                continue
            late, groups = lane.due(now)
            self._refuse_late(lane, late)
            for group in groups:
                try:
                    settlement = lane.end_due([group], now)
                except Exception:  # it has its turn yet
                    _log.exception("a deadline was not kept", model=lane.model.name)
                else:
                    self._refuse_late(lane, settlement.late)
                    self._answer(lane, settlement.finished)

    def _step(self, lane: Lane) -> None:
        """Plan, run and settle a step of a model."""
        step, began, before = None, time.perf_counter(), lane.virtual_time
        try:
            step = lane.plan()
            if step.requests:
                self._run(lane, step)
        except Exception as error:  # whatever it is: it is this step's, and the thread must live
            self.step_started = None
            requests = 0 if step is None else len(step.requests)
            _log.exception("a step failed", model=lane.model.name, requests=requests)
            self._metrics.of(self._metrics.step_failures, lane.model.name).inc()
            failed = lane.fail(step)
            # or it would be next again and again
            lane.virtual_time = max(lane.virtual_time, before + time.perf_counter() - began)
            if step is not None and len(failed) > 1:
                self._run_apart(failed)
            else:
                self._end([(request, State.FAILED, error) for request in failed])

    def _run_apart(self, failed: list[Request]) -> None:
        """Run requests again, each by itself: of those that shared a step, one may have made it fail for all.

        They begin anew, and answer the same: what is drawn for a row depends on no other.
        """
        for request in failed:
            again = request.again()
            self._active[again] = self._active.pop(request)
            request.become(State.FAILED)  # which nobody is told: the other has its future
            self._lane_of(request.model, apart=True).submit(again)

    def _run(self, lane: Lane, step: Step) -> None:
        """Run a step, and end the requests that it finished or that are late."""
        self.step_started = started = time.perf_counter()
        report = lane.run(step)
        for request in step.requests:
            if request.traced:
                request.trace(StepTime(started, time.perf_counter(), report.rows, report.pairs, report.seconds))
        settlement = lane.settle(step, report)
        self.step_started = None
        self._refuse_late(lane, settlement.late)
        self._record(lane, report)
        now = time.perf_counter()
        self._backlog.ran(lane.model.name, max(report.pairs, report.rows), now - (self._last_end or started))
        self._answer(lane, settlement.finished)
        self._estimate(lane, now)
        self._last_end = now

    def _estimate(self, lane: Lane, now: float) -> None:
        """Hand out what there is of the answers that are watched; who watches goes without where that fails."""
        try:
            for request, answer in lane.estimates(now):
                if request.watch is not None:
                    self._deliver(partial(request.watch, answer))
        except Exception:
            _log.exception("no estimate was made", model=lane.model.name)

    def _record(self, lane: Lane, report: StepReport) -> None:
        """Count a step in the metrics."""
        name, metrics = lane.model.name, self._metrics
        metrics.of(metrics.step_rows, name).observe(report.rows)
        metrics.of(metrics.step_pairs, name).observe(report.pairs)
        for stage, spent in report.seconds.items():
            metrics.of(metrics.step_duration, name, stage).observe(spent)
        metrics.of(metrics.pairs, name).inc(max(report.pairs, report.rows))

    def _refuse_late(self, lane: Lane, late: list[Request]) -> None:
        """Refuse requests whose time is over."""
        if late:
            self._metrics.of(self._metrics.refused, lane.model.name, "deadline").inc(len(late))
            self._end([(request, State.LATE, DeadlineError()) for request in late])

    def _answer(self, lane: Lane, finished: list[Request]) -> None:
        """Answer requests all of whose rows are done."""
        name, metrics = lane.model.name, self._metrics
        now = time.perf_counter()
        ended: Ended = []
        for request in finished:
            try:
                ended.append((request, State.ANSWERED, request.answer(now)))
            except Exception as error:  # a network that answered NaN
                ended.append((request, State.FAILED, error))
            started = request.started or now
            metrics.of(metrics.queue_duration, name).observe(started - request.submitted)
            metrics.of(metrics.compute_duration, name).observe(now - started)
            metrics.of(metrics.rows, name).inc(request.rows)
            if request.plan.tolerance is not None:
                self._backlog.stopped(name, request.mean_passes)
        self._end(ended)

    def _end(self, ended: Ended) -> None:
        """End requests, and settle their futures, all at once."""
        if not ended:
            return
        for request, state, _ in ended:
            request.become(state)
        self._release([request for request, *_ in ended])
        settled = [(request.future, outcome) for request, _, outcome in ended]
        self._deliver(lambda: _settle_futures(settled))

    def _release(self, ended: list[Request]) -> None:
        """Let go of requests that have ended, and of their places in the backlog."""
        self._backlog.release([self._active.pop(request) for request in ended])


def _settle_futures(settled: list[tuple[Future, Outcome]]) -> None:
    for future, outcome in settled:
        if future.done():  # cancelled
            continue
        with suppress(InvalidStateError):  # or cancelled meanwhile, by another thread
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _at_once(function: Callable[[], object]) -> object:
    return function()
