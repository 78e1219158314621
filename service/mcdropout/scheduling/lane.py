"""Lanes: one model's requests, cut into steps of the engine.

Requests take turns, each a share of the step, and three rules say who is next: what has waited longest of those that
have begun gets a share in any case; then comes what a turn can finish, which makes room; then what is new, so that a
small request does not wait for large ones; and then the others, round robin. Where many wait, a turn is all that a
request needs, if a step holds that: one after another they wait less than all at once. What a turn takes of a request's
rows begins; it goes on, with what began beside it, in a group, until each row has its passes. What has a time to be
answered in is answered then, whoever's turn it is.
"""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.model import Model
from mcdropout.engine.arrays import Array
from mcdropout.engine.steps import Steps
from mcdropout.scheduling.group import Group, split_by_owner
from mcdropout.scheduling.request import Deadlines, Request
from mcdropout.scheduling.step_size import Room, Sizes

_SMOOTHING = 0.2
# With more requests than this, steps may take longer, up to so many times as long: each waits for the others more than
# for a step, and small steps waste what there is to share out.
_FEW_REQUESTS, _LONGEST = 16, 4.0


@dataclass
class StepReport:
    """What a step did.

    Attributes:
        rows: that were in it.
        passes: each of one row.
        seconds: by stage.
        finished: requests all of whose rows are done.
        late: requests whose time was over too early.
    """

    rows: int = 0
    passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[Request] = field(default_factory=list)
    late: list[Request] = field(default_factory=list)


class _Beginning:
    """Rows that begin in this step, of requests with the same key."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.slices: list[tuple[int, int]] = []
        self.rows = 0
        self.passes = 0

    def add(self, request: Request, rows: int) -> None:
        if self.requests and self.requests[-1] is request:
            first, end = self.slices[-1]
            self.slices[-1] = first, end + rows
        else:
            self.requests.append(request)
            self.slices.append((request.admitted, request.admitted + rows))
        request.admitted += rows
        self.rows += rows

    def inputs(self) -> list[tuple[Array, ...]]:
        """Of each request, the inputs of the rows that begin."""
        return [
            tuple(x[first:end] for x in request.inputs)
            for request, (first, end) in zip(self.requests, self.slices, strict=True)
        ]

    def members(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of the requests each row belongs to, and its index there, `[rows]` each."""
        counts = [end - first for first, end in self.slices]
        owners = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return owners, np.concatenate([np.arange(first, end, dtype=np.int64) for first, end in self.slices])


class Work:
    """What a step is to do.

    Attributes:
        going: groups that go on, and how many passes each takes.
        beginnings: rows that begin, by the key of their plans.
        deterministic: rows of the baseline.
        unfinished: groups that are to go on after it.
    """

    def __init__(self) -> None:
        self.going: list[tuple[Group, int]] = []
        self.beginnings: dict[tuple[object, ...], _Beginning] = {}
        self.deterministic = _Beginning()
        self.unfinished: list[Group] = []

    @property
    def begun(self) -> int:
        """How many rows begin."""
        return self.deterministic.rows + sum(one.rows for one in self.beginnings.values())

    @property
    def requests(self) -> list[Request]:
        """Whose rows are in it."""
        beginning = [request for one in (*self.beginnings.values(), self.deterministic) for request in one.requests]
        return list(dict.fromkeys([*beginning, *(request for group, _ in self.going for request in group.requests)]))


class Lane:
    """One model's requests. Everything but `run` is called with the lock of the scheduler held.

    Attributes:
        model: which model.
        time: how long its steps took so far, in seconds: the model that had least is next.
        last_seconds: how long a step took of late.
    """

    def __init__(self, model: Model, step_seconds: float, sizes: Sizes, since: float = 0.0) -> None:
        """
        Args:
            model: which model.
            step_seconds: how long a step should take.
            sizes: how large a step may be.
            since: what `time` begins with.
        """
        self.model = model
        self.time = since
        self.sizes = sizes
        self._steps: Steps = model.engine.steps
        self._step_seconds = self._wanted_seconds = step_seconds
        self._new: deque[Request] = deque()
        self._old: deque[Request | Group] = deque()
        self._deadlines = Deadlines()
        self.last_seconds = 0.0
        self._unplanned: list[Request] = []  # whose turns were planned when planning failed

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._new or self._old)

    @property
    def hurries(self) -> bool:
        """Whether a request may have a time to be answered in."""
        return len(self._deadlines) > 0

    def submit(self, request: Request) -> None:
        """Take a request in."""
        self._new.append(request)
        if request.plan.deadline is not None:
            self._deadlines.add(request.plan.deadline, request)

    def plan(self) -> Work:
        """Whose turns it is in the next step."""
        work = Work()
        try:
            self._plan(work)
        except BaseException:
            self._unplanned = work.requests
            raise
        return work

    def _plan(self, work: Work) -> None:
        waiting = len(self._new) + sum(1 if isinstance(one, Request) else len(one.requests) for one in self._old)
        self._wanted_seconds = self._step_seconds * min(_LONGEST, max(1.0, waiting / _FEW_REQUESTS))
        room = Room(self.sizes.rows.now, self.sizes.pairs.now, crowded=waiting > _FEW_REQUESTS)
        first = self._first(room)
        try:
            while first and room.left:
                self._turn(first[0], work, room)
                first.popleft()
        finally:  # whose turn did not come, where it cannot be planned
            self._old.extendleft(reversed(first))
        for waits in (self._new, self._old):
            while waits and room.left:
                self._turn(waits[0], work, room)
                waits.popleft()

    def due(self, now: float) -> tuple[list[Request], list[Group]]:
        """Whose time is over: requests with rows that have not begun, and the groups of the others, each once."""
        due = self._deadlines.pop(now)
        if not due:
            return [], []
        late = [request for request in due if request.admitted < request.rows]
        return late, [one for one in self._old if isinstance(one, Group) and not due.isdisjoint(one.requests)]

    def end_due(self, groups: list[Group], now: float) -> StepReport:
        """Hand out what there is of groups that have rows whose time is over."""
        started = time.perf_counter()
        report = StepReport()
        for group in groups:
            self._settle(group, now, report)
        self._old = deque(one for one in self._old if isinstance(one, Request) or len(one.cohort))
        self.time += time.perf_counter() - started
        return report

    def _first(self, room: Room) -> deque[Request | Group]:
        """Whose turn is before that of new requests: who has waited longest, and what a turn can finish."""
        first = deque([self._old.popleft()]) if self._old else deque()
        left: deque[Request | Group] = deque()
        pairs = room.ending_pairs
        for one in self._old:
            needed = len(one.cohort) * one.left if isinstance(one, Group) else 0
            if needed and pairs > 0 and needed <= room.turn_pairs(needed):
                first.append(one)
                pairs -= needed
            else:
                left.append(one)
        self._old = left
        return first

    def _turn(self, one: Request | Group, work: Work, room: Room) -> None:
        """Let a request or a group have its share of a step, as far as there is room."""
        if isinstance(one, Group):
            one.drop_cancelled()
            if len(one.cohort):
                pairs = room.turn_pairs(len(one.cohort) * one.left)
                passes = one.next_passes(self._most_passes(len(one.cohort), pairs))
                work.going.append((one, passes))
                room.take(0, passes * len(one.cohort))
        elif not one.over:
            needed = (one.rows - one.admitted) * one.plan.passes
            rows, pairs = self._begin(one, work, room.turn_rows, room.turn_pairs(needed))
            room.take(rows, pairs)
            if one.admitted < one.rows:
                self._old.append(one)

    def _begin(self, request: Request, work: Work, rows: int, pairs: int) -> tuple[int, int]:
        """Let rows of a request begin: at most so many, that take so many pairs; how many of both it is."""
        plan = request.plan
        if plan.passes == 0:
            count = min(rows, request.rows - request.admitted)
            work.deterministic.add(request, count)
            return count, 0
        # Who may stop early or has a time to keep begins with the fewest passes, with all rows that fit.
        wanted = plan.passes if plan.deadline is None and plan.tolerance is None else plan.fewest
        count = min(rows, request.rows - request.admitted, max(1, pairs // wanted))
        key = plan.key if self._steps.shares_rows else (id(request),)
        beginning = work.beginnings.setdefault(key, _Beginning())
        if not beginning.rows:
            beginning.passes = min(wanted, self._most_passes(count, pairs))
        beginning.add(request, count)
        return count, count * beginning.passes

    def _most_passes(self, rows: int, pairs: int) -> int:
        return max(1, min(self._steps.most_passes(rows), pairs // rows))

    def run(self, work: Work) -> StepReport:
        """Run a step. Raises whatever a runtime does."""
        started = time.perf_counter()
        for request in work.requests:
            request.started = request.started or started
        report = StepReport(rows=work.begun + sum(len(group.cohort) for group, _ in work.going))
        if work.deterministic.rows:
            self._run_deterministic(work.deterministic, report)
        groups = [*work.going, *self._admitted(work)]
        report.seconds["prefix"] = time.perf_counter() - started
        report.passes = sum(passes * len(group.cohort) for group, passes in groups)
        if groups:
            ran = self._steps.run([(group.cohort, passes) for group, passes in groups])
            report.seconds |= {"masks": ran.masks, "suffix": ran.suffix, "statistics": ran.statistics}
        now = time.perf_counter()
        for group, _ in groups:
            self._settle(group, now + self.last_seconds, report)
            if len(group.cohort):
                work.unfinished.append(group)
        self._let_go(work.unfinished)
        self._learn(work, report, time.perf_counter() - started)
        return report

    def _let_go(self, unfinished: list[Group]) -> None:
        """Keep no rows of a frontier that are done, once they are most of it."""
        for group in unfinished:
            if self._steps.is_sparse(group.cohort, len(group.cohort)):
                frontier = group.cohort.frontier
                others = (*unfinished, *(one for one in self._old if isinstance(one, Group)))
                needed = sum(len(one.cohort) for one in others if one.cohort.frontier is frontier)
                if self._steps.is_sparse(group.cohort, needed):  # else what they share would be copied step by step
                    self._steps.compact(group.cohort)

    def end(self, work: Work) -> None:
        """What is not finished waits for its next turn."""
        self._old.extend(work.unfinished)

    def fail(self, work: Work) -> list[Request]:
        """The requests of a step that failed, which leave; the next steps are half as large."""
        self.sizes.rows.halve()
        self.sizes.pairs.halve()
        failed = work.requests or self._all()  # of all, where not even a step could be planned
        gone = set(failed)
        self._old = deque(one for one in self._old if isinstance(one, Group) or one not in gone)
        return failed

    def _all(self) -> list[Request]:
        """All requests that wait."""
        groups = [request for one in self._old if isinstance(one, Group) for request in one.requests]
        found = [*self._unplanned, *self._new, *(one for one in self._old if isinstance(one, Request)), *groups]
        self._unplanned = []
        self._new.clear()
        self._old.clear()
        return list(dict.fromkeys(found))

    def _admitted(self, work: Work) -> list[tuple[Group, int]]:
        """The groups of rows that begin, with one prefix for all of them."""
        beginnings = list(work.beginnings.values())
        if not beginnings:
            return []
        frontier = self._steps.admit(_joined([piece for one in beginnings for piece in one.inputs()]))
        groups: list[tuple[Group, int]] = []
        start = 0
        for one in beginnings:
            owners, rows = one.members()
            seeds = np.array([request.seed for request in one.requests], np.uint64)[owners]
            places = np.arange(start, start + one.rows, dtype=np.int64)
            start += one.rows
            samples = one.requests[0].plan.samples
            cohort = self._steps.cohort(frontier, places, seeds, rows.astype(np.uint64), samples=samples)
            groups.append((Group(cohort, one.requests, owners, rows), one.passes))
        return groups

    def _run_deterministic(self, beginning: "_Beginning", report: StepReport) -> None:
        outcome = self._steps.deterministic(_joined(beginning.inputs()))
        owners, rows = beginning.members()
        for request, part in split_by_owner(beginning.requests, owners, rows, outcome):
            if request.add(part):
                report.finished.append(request)

    @staticmethod
    def _settle(group: Group, now: float, report: StepReport) -> None:
        """Hand out what is finished of a group, and tell who is late."""
        report.late += group.late(now)
        done = group.finished(now)
        if not done.any():
            return
        for request, part in group.parts(slice(None) if done.all() else done):
            if request.add(part):
                report.finished.append(request)
        group.drop(~done)

    def _learn(self, work: Work, report: StepReport, total: float) -> None:
        """Set the size of the next steps by the time of this one."""
        self.time += total
        self.last_seconds += _SMOOTHING * (total - self.last_seconds)
        if work.begun:
            self.sizes.rows.learn(work.begun, report.seconds["prefix"], self._wanted_seconds)
        if report.passes:
            self.sizes.pairs.learn(report.passes, total - report.seconds["prefix"], self._wanted_seconds)


def _joined(pieces: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Inputs behind one another."""
    return pieces[0] if len(pieces) == 1 else tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
