"""The scheduler: a thread that runs the steps of all models, and the way in and out of it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from copy import copy

import structlog

from mcdropout.catalogue.model import Model
from mcdropout.engine.arrays import Array
from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import Limits, OverloadedError, Queue
from mcdropout.scheduling.lane import Lane, StepReport, Work
from mcdropout.scheduling.request import Answer, DeadlineError, Future, Plan, Request
from mcdropout.scheduling.step_size import Sizes

_log = structlog.get_logger("scheduler")

_LOOK_SECONDS = 0.05  # between looks for requests that nobody waits for any more

Settled = list[tuple[Future, Answer | BaseException]]


class Scheduler:
    """Runs requests in a thread of its own."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_queue_rows: int,
        max_queue_bytes: int = 2**30,
        max_queue_seconds: float | None = None,
        max_batch_rows: int = 1024,
        step_seconds: float = 0.004,
        deliver: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """
        Args:
            metrics: where steps are counted.
            max_queue_rows: how many rows may be on their way.
            max_queue_bytes: how much memory their inputs may take.
            max_queue_seconds: how long their passes may take, by the rate of the steps now; None for any time.
            max_batch_rows: how many rows may begin in a step.
            step_seconds: how long a step should take.
            deliver: calls a function, which settles futures, where these may be settled; here and now if None.
        """
        self._metrics = metrics
        self._queue = Queue(Limits(max_queue_rows, max_queue_bytes, max_queue_seconds), metrics)
        self._max_batch_rows, self._step_seconds = max_batch_rows, step_seconds
        self._deliver = deliver or (lambda call: call())
        self._lanes: dict[int, Lane] = {}
        self._sizes: dict[str, Sizes] = {}  # of each model's steps, which its next lane begins with
        self._active: set[Request] = set()
        self._hurried: list[Lane] = []  # with times to keep, when the next step was chosen
        self._last_end = 0.0  # of a step, behind which there was more to do
        self._look_again = 0.0
        self._changed = threading.Condition()
        self._stopping = False
        self.step_started: float | None = None
        """When the step that runs now began, by `time.perf_counter()`; None while none does."""
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def queue_rows(self) -> int:
        """Rows that were taken and are not answered yet."""
        return self._queue.rows

    @property
    def load(self) -> float:
        """How full the queue is, 0 to 1."""
        return self._queue.load

    def refusal(self, coming: int = 0) -> OverloadedError | None:
        """Why not one more row is taken, where `coming` are on their way already; None where one is."""
        return self._queue.refusal(coming)

    def check_room(self) -> None:
        """Raise OverloadedError where not one more row is taken."""
        if (error := self.refusal()) is not None:
            raise copy(error)  # which others are told too, each with its own traceback

    def submit(
        self, model: Model, inputs: tuple[Array, ...], *, seed: int, plan: Plan, future: Future | None = None
    ) -> Future:
        """Take a request in; returns at once.

        Args:
            model: which model.
            inputs: `[rows, ...]` each, as the engine's `as_inputs` returns them.
            seed: what its masks are drawn from.
            plan: how many passes it gets.
            future: where its answer is awaited; a future of threads where not given.

        Returns:
            The future. It raises `NonFiniteOutputError` where the network answers NaN or infinity, and
            `DeadlineError` where the plan's time was too short.

        Raises:
            OverloadedError: too much waits already.
        """
        request = Request(model, inputs, seed, plan, ThreadFuture() if future is None else future, time.perf_counter())
        with self._changed:
            if self._stopping:
                raise OverloadedError("the server is stopping", reason="stopping")
            fewest = None if plan.tolerance is None else plan.fewest
            seconds = None if plan.deadline is None else plan.deadline - request.submitted
            request.expected = self._queue.passes(model.name, request.rows, plan.passes, fewest, seconds)
            error = self._queue.refusal_of(model.name, request.rows, request.bytes, request.expected)
            if error is not None:
                raise error
            self._lane_of(model).submit(request)
            self._active.add(request)
            self._queue.add(model.name, request.rows, request.bytes, request.expected)
            self._changed.notify()
        return request.future

    def stop(self) -> None:
        """Finish what is on its way, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _lane_of(self, model: Model) -> Lane:
        """A model's lane. One that had nothing to do has no credit for that."""
        lane = self._lanes.get(id(model))
        if lane is None:
            sizes = self._sizes.get(model.name)
            if sizes is None or not sizes.suit(model):
                sizes = Sizes.of(model, self._max_batch_rows)
            since = min((other.time for other in self._lanes.values()), default=0.0)
            lane = self._lanes[id(model)] = Lane(model, self._step_seconds, sizes, since)
        return lane

    def _work(self) -> None:
        while (lane := self._next()) is not None:
            if self._hurried:
                self._keep_deadlines(time.perf_counter() + lane.last_seconds)
            self._step(lane)
            del lane  # while nothing is to be done, no model is kept

    def _keep_deadlines(self, now: float) -> None:
        """Answer whose time will be over after the next step, of whatever model, with what there is."""
        with self._changed:
            due = [(lane, *lane.due(now)) for lane in self._hurried]
        for lane, late, groups in due:
            self._leave(lane, late)
            if groups:
                try:
                    report = lane.end_due(groups, now)
                except Exception:  # they have their turns yet
                    _log.exception("a deadline was not kept", model=lane.model.name)
                else:
                    self._leave(lane, report.late)
                    self._answer(lane, report.finished)

    def _step(self, lane: Lane) -> None:
        """Plan and run a step of a model."""
        work, began, before = Work(), time.perf_counter(), lane.time
        try:
            with self._changed:
                work = lane.plan()
            if work.requests:
                self._run(lane, work)
        except Exception as error:  # whatever it is: it is this step's, and the thread must live
            self.step_started = None
            _log.exception("a step failed", model=lane.model.name, requests=len(work.requests))
            self._metrics.of(self._metrics.step_failures, lane.model.name).inc()
            with self._changed:
                failed = lane.fail(work)
            lane.time = max(lane.time, before + time.perf_counter() - began)  # or it would be next again and again
            self._settle([(request, error) for request in failed])

    def _run(self, lane: Lane, work: Work) -> None:
        """Run a step, and answer the requests that it finished."""
        self.step_started = started = time.perf_counter()
        report = lane.run(work)
        self.step_started = None
        with self._changed:
            lane.end(work)
        self._leave(lane, report.late)
        self._tell(lane, report)
        with self._changed:
            now = time.perf_counter()
            self._queue.ran(lane.model.name, max(report.passes, report.rows), now - (self._last_end or started))
        self._answer(lane, report.finished)
        self._last_end = now

    def _next(self) -> Lane | None:
        """Whose step is next; None when the scheduler stops."""
        with self._changed:
            while True:
                self._forget_cancelled()
                self._drop_idle()
                self._hurried = [lane for lane in self._lanes.values() if lane.hurries]
                if self._lanes:
                    return min(self._lanes.values(), key=lambda lane: lane.time)
                if self._stopping:
                    return None
                self._last_end = 0.0
                self._changed.wait(_LOOK_SECONDS if self._active else None)

    def _drop_idle(self) -> None:
        for key, lane in [(key, lane) for key, lane in self._lanes.items() if not lane.busy]:
            self._sizes[lane.model.name] = lane.sizes
            del self._lanes[key]

    def _forget_cancelled(self) -> None:
        now = time.perf_counter()
        if now < self._look_again:
            return
        self._look_again = now + _LOOK_SECONDS
        for request in [request for request in self._active if request.future.cancelled()]:
            self._metrics.of(self._metrics.cancelled, request.model.name).inc()
            self._forget(request)

    def _forget(self, request: Request) -> None:
        if request in self._active:
            self._active.discard(request)
            self._queue.add(request.model.name, -request.rows, -request.bytes, -request.expected)

    def _leave(self, lane: Lane, late: list[Request]) -> None:
        """Tell requests that their time is over; they may be named twice, and some are gone."""
        if late := [request for request in dict.fromkeys(late) if request in self._active and not request.over]:
            self._metrics.of(self._metrics.refused, lane.model.name, "deadline").inc(len(late))
            self._settle([(request, DeadlineError()) for request in late])

    def _tell(self, lane: Lane, report: StepReport) -> None:
        """Tell the metrics of a step."""
        name, metrics = lane.model.name, self._metrics
        metrics.of(metrics.step_rows, name).observe(report.rows)
        metrics.of(metrics.step_passes, name).observe(report.passes)
        for stage, spent in report.seconds.items():
            metrics.of(metrics.step_duration, name, stage).observe(spent)
        metrics.of(metrics.passes, name).inc(max(report.passes, report.rows))

    def _answer(self, lane: Lane, finished: list[Request]) -> None:
        """Answer requests all of whose rows are done."""
        name, metrics = lane.model.name, self._metrics
        now = time.perf_counter()
        answers: list[tuple[Request, Answer | BaseException]] = []
        for request in finished:
            try:
                answer: Answer | BaseException = request.answer(now)
            except Exception as error:  # a network that answered NaN
                answer = error
            metrics.of(metrics.queue_duration, name).observe((request.started or now) - request.submitted)
            metrics.of(metrics.compute_duration, name).observe(now - (request.started or now))
            metrics.of(metrics.rows, name).inc(request.rows)
            answers.append((request, answer))
        stopped = [request for request in finished if request.plan.tolerance is not None]
        if stopped:
            with self._changed:
                for request in stopped:
                    self._queue.stopped(name, request.mean_passes)
        self._settle(answers)

    def _settle(self, answers: list[tuple[Request, Answer | BaseException]]) -> None:
        """Hand out answers, all at once."""
        with self._changed:
            for request, _ in answers:
                request.told = True
                self._forget(request)
        settled: Settled = [(request.future, answer) for request, answer in answers]
        if settled:
            self._deliver(lambda: _settle_futures(settled))


def _settle_futures(settled: Settled) -> None:
    for future, answer in settled:
        if future.done():  # cancelled, or failed before
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
