"""Lanes: one model's requests, cut into steps of the engine.

Requests take turns, each a share of the step, and three rules say who is next: what has waited longest of those that
have begun gets a share in any case; then comes what a turn can finish, which makes room; then what is new, so that a
small request does not wait for large ones; and then the others, those of one client round robin, and the clients by
what they have had. Where many wait, a turn is all that a request needs, if a step holds that: one after another they
wait less than all at once. What a turn takes of a request's rows begins; it goes on, with what began beside it, in a
group, until each row has its passes. What has a time to be answered in is answered then, whoever's turn it is.

Groups, and requests only some of whose rows have begun, take turns with one another: each draws a ticket when it queues
up, and the lowest ticket is next.
"""

import time
from bisect import insort
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice

import numpy as np

from mcdropout.engine.steps import Steps
from mcdropout.scheduling.answer import Answer, Part
from mcdropout.scheduling.clients import Client, FairClock, FairQueue, Ticket
from mcdropout.scheduling.deadlines import Deadlines
from mcdropout.scheduling.group import Group, split_by_owner
from mcdropout.scheduling.request import Request, Served, State
from mcdropout.scheduling.step import Beginning, Settlement, Step, StepReport, joined
from mcdropout.scheduling.step_size import Budget, StepSizes

_SMOOTHING = 0.2
# With more requests than this, steps may take longer, up to so many times as long: each waits for the others more than
# for a step, and small steps waste what there is to share out.
_FEW_REQUESTS, _LONGEST = 16, 4.0


class Lane:
    """One model's requests, from when they leave the scheduler's inbox. All of it is the scheduler's thread's alone.

    Attributes:
        model: which model.
        sizes: how large its next step may be.
        virtual_time: how long its steps took so far, in seconds, on top of what it began with: the lane that has least
            is next.
        last_seconds: how long a step took of late.
        waiting: requests none of whose rows have begun, in the order of their turns.
        partial: requests some of whose rows have begun and some have not, by their tickets.
        running: groups that are to go on, by their tickets; those of the step under way are not among them.
        apart: whether its requests are run one after another, and share no step.
    """

    def __init__(
        self, model: Served, step_seconds: float, sizes: StepSizes, since: float = 0.0, *, apart: bool = False
    ) -> None:
        """
        Args:
            model: which model.
            step_seconds: how long a step should take.
            sizes: how large a step may be.
            since: what `virtual_time` begins with.
            apart: whether its requests are to share no step.
        """
        self.apart = apart
        self._kept_back: deque[Request] = deque()  # where they are, those whose turn it is not yet
        self.model = model
        self.sizes = sizes
        self.virtual_time = since
        self.last_seconds = 0.0
        self.waiting: FairQueue[Request] = FairQueue()
        self.partial: deque[Request] = deque()
        self.running: deque[Group] = deque()
        self._steps: Steps = model.engine.steps
        self._on_cpu = model.engine.program.device == "cpu"
        self._step_seconds = self._wanted_seconds = step_seconds
        self._deadlines = Deadlines()
        self._turns = FairClock()
        self._first_ticket = self._next_ticket = 0
        self._half_planned: list[Request] = []  # whose turns were planned when planning failed

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.partial or self.running or self._kept_back)

    @property
    def hurries(self) -> bool:
        """Whether a request may have a time to be answered in."""
        return len(self._deadlines) > 0

    def submit(self, request: Request) -> None:
        """Take a request in."""
        self._turns.meet(request.client)
        (self._kept_back if self.apart else self.waiting).append(request)
        if request.plan.deadline is not None:
            self._deadlines.add(request.plan.deadline, request)

    def plan(self) -> Step:
        """Say whose turns it is in the next step. Where that fails, all requests are to fail: see `fail`."""
        if self._kept_back and not (self.waiting or self.partial or self.running):
            self.waiting.append(self._kept_back.popleft())
        step = Step()
        try:
            self._plan(step)
        except Exception:
            self._half_planned = step.members()
            raise
        step.requests = step.members()
        return step

    def _plan(self, step: Step) -> None:
        count = len(self.waiting) + len(self.partial) + sum(len(group.requests) for group in self.running)
        self._wanted_seconds = self._step_seconds * min(_LONGEST, max(1.0, count / _FEW_REQUESTS))
        budget = Budget(self.sizes.rows.now, self.sizes.pairs.now, crowded=count > _FEW_REQUESTS)
        before_new = self._put_ending_first(budget)
        while budget.left:
            if self.waiting and self._new_is_next(before_new):
                request = self.waiting.first
                self._begin(request, step, budget)
                self.waiting.popleft()
                self._queue_up(request)
            elif self.partial or self.running:
                self._next_turn(step, budget)
                before_new -= 1
            else:
                break

    def _put_ending_first(self, budget: Budget) -> int:
        """Let groups that a turn can finish stand right behind what has waited longest.

        Returns:
            How many have their turns before new requests: what has waited longest, and those groups.
        """
        if not self.partial and not self.running:
            return 0
        longest = self._first()
        ending: list[Group] = []
        pairs = budget.ending_pairs
        for group in self.running:
            needed = len(group.cohort) * group.left
            if group is not longest and pairs > 0 and needed <= budget.turn_pairs(needed):
                ending.append(group)
                pairs -= needed
        if ending:
            for one in reversed([longest, *ending]):
                self._first_ticket -= 1
                one.ticket = -1.0, self._first_ticket
            self.running = deque(sorted(self.running, key=_ticket_of))
        return 1 + len(ending)

    def _first(self) -> Request | Group:
        """What has the lowest ticket, of what has begun."""
        return self.running[0] if self._group_is_next() else self.partial[0]

    def _group_is_next(self) -> bool:
        """Whether a group has the lowest ticket, and not a request some of whose rows have not begun."""
        return not self.partial or bool(self.running and self.running[0].ticket < self.partial[0].ticket)

    def _new_is_next(self, before_new: int) -> bool:
        """Whether what is new comes before what has begun, so many turns of which go before what is new in any case.

        Of two clients, the one that has had less comes first.
        """
        if not self.partial and not self.running:
            return True
        first, client = self._first(), self.waiting.first.client
        return before_new <= 0 and (self._turns.due(client) <= first.ticket[0] or not _is_of_another(first, client))

    def _lag(self, group: Group) -> int:
        """How many pairs a group's client may have before what comes next is due, where that is another's."""
        behind: list[Request | Group] = [*islice(self.running, 1, 2), *islice(self.partial, 1)]
        client = group.requests[0].client
        if not behind or group.ticket[0] < 0.0 or _is_of_another(group, client):
            return 0
        following = min(behind, key=_ticket_of)
        if not _is_of_another(following, client):
            return 0
        return int((following.ticket[0] - group.ticket[0]) * client.share)

    def _next_turn(self, step: Step, budget: Budget) -> None:
        """Give a turn to what has the lowest ticket. It leaves when it has had it, so that a failure loses nothing."""
        if self._group_is_next():
            group = self.running[0]
            self._go_on(group, step, budget)
            self.running.popleft()
            self._turns.reached(group.ticket[0])
        else:
            request = self.partial[0]
            self._begin(request, step, budget)
            self.partial.popleft()
            self._turns.reached(request.ticket[0])
            self._queue_up(request)

    def _go_on(self, group: Group, step: Step, budget: Budget) -> None:
        """Give a group its share of a step."""
        group.drop_ended()
        rows = len(group.cohort)
        if rows:
            pairs = budget.turn_pairs(rows * group.left, self._lag(group))
            passes = group.next_passes(self._most_passes(rows, pairs))
            step.going.append((group, passes))
            budget.take(0, passes * rows)
            for client, its_rows in group.clients.items():
                self._turns.spend(client, passes * its_rows)

    def _begin(self, request: Request, step: Step, budget: Budget) -> None:
        """Let rows of a request begin that have not yet, as many as its share of a step holds."""
        if not request.awaited:
            return
        plan = request.plan
        count = min(budget.turn_rows, request.rows - request.admitted)
        if plan.passes == 0:
            step.deterministic.add(request, count)
            budget.take(count, 0)
            self._turns.spend(request.client, count)
            return
        needed = (request.rows - request.admitted) * plan.passes
        pairs = budget.turn_pairs(needed)
        # Who may stop early or has a time to keep begins with the fewest passes, with all rows that fit.
        wanted = plan.passes if plan.deadline is None and plan.tolerance is None else plan.fewest
        count = min(count, max(1, pairs // wanted))
        key = plan.key if self._steps.shares_rows else (id(request),)
        if needed > pairs and self._turns.is_shared:  # its other turns are to be its client's alone
            key = *key, request.client
        beginning = step.beginnings.setdefault(key, Beginning())
        if not beginning.rows:
            beginning.passes = min(wanted, self._most_passes(count, pairs))
        beginning.add(request, count)
        budget.take(count, count * beginning.passes)
        self._turns.spend(request.client, count * beginning.passes)

    def _queue_up(self, request: Request) -> None:
        """Let a request that had a turn queue up for the next, where it has rows that have not begun."""
        if request.awaited and request.admitted < request.rows:
            request.ticket = self._drawn_ticket([request.client])
            insort(self.partial, request, key=_ticket_of)

    def _most_passes(self, rows: int, pairs: int) -> int:
        return max(1, min(self._steps.most_passes(rows), pairs // rows))

    def _drawn_ticket(self, clients: Iterable[Client]) -> Ticket:
        """The place of who queues up for another turn, and has rows of these clients."""
        self._next_ticket += 1
        return min(map(self._turns.resumes, clients)), self._next_ticket

    def run(self, step: Step) -> StepReport:
        """Run a step. Raises whatever a runtime does."""
        started, worked = time.perf_counter(), time.thread_time()
        for request in step.requests:
            if request.state is State.WAITING:
                request.begin(started)
        rows = step.begun + sum(len(group.cohort) for group, _ in step.going)
        deterministic = step.deterministic
        baseline = self._steps.deterministic(joined([deterministic])) if deterministic.rows else None
        work = [*step.going, *self._begun(step)]
        seconds = {"prefix": time.perf_counter() - started}
        pairs = sum(passes * len(group.cohort) for group, passes in work)
        if work:
            ran = self._steps.run([(group.cohort, passes) for group, passes in work])
            seconds |= {"masks": ran.masks, "suffix": ran.suffix, "statistics": ran.statistics}
        return StepReport(rows, pairs, seconds, started, worked, [group for group, _ in work], baseline)

    def _begun(self, step: Step) -> list[tuple[Group, int]]:
        """The groups of rows that begin, with one prefix for all of them, and how many passes each takes."""
        beginnings = list(step.beginnings.values())
        if not beginnings:
            return []
        frontier = self._steps.admit(joined(beginnings))
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

    def settle(self, step: Step, report: StepReport) -> Settlement:
        """Hand out what a step that ran has finished; what goes on queues up, and the next step's size is learned."""
        done: list[Request] = []
        if report.baseline is not None:
            beginning = step.deterministic
            parts = split_by_owner(beginning.requests, *beginning.members(), report.baseline)
            done = [request for request, part in parts if request.add(part)]
        found = _handed_out(report.groups, time.perf_counter() + self.last_seconds)
        unfinished = [group for group in report.groups if len(group.cohort)]
        self._compact(unfinished)
        self._learn(step, report, time.perf_counter() - report.started)
        for group in unfinished:
            group.ticket = self._drawn_ticket(group.clients)
            insort(self.running, group, key=_ticket_of)
        return Settlement([*done, *found.finished], found.late)

    def estimates(self, now: float) -> list[tuple[Request, Answer]]:
        """What there is of the answers to requests that are watched, between two steps."""
        found: dict[Request, list[Part]] = {}
        for group in self.running:
            if any(request.is_watched(now) for request in group.requests):
                for request, part in group.parts(slice(None)):
                    if request.is_watched(now) and request.awaited:
                        found.setdefault(request, []).append(part)
        made = ((request, request.estimate(parts, time.perf_counter())) for request, parts in found.items())
        return [(request, answer) for request, answer in made if answer is not None]

    def _compact(self, unfinished: list[Group]) -> None:
        """Keep no rows of a frontier that are done, once they are most of it."""
        for group in unfinished:
            if self._steps.is_sparse(group.cohort, len(group.cohort)):
                frontier = group.cohort.frontier
                sharing = (one for one in chain(unfinished, self.running) if one.cohort.frontier is frontier)
                needed = sum(len(one.cohort) for one in sharing)
                if self._steps.is_sparse(group.cohort, needed):  # else what they share would be copied step by step
                    self._steps.compact(group.cohort)

    def _learn(self, step: Step, report: StepReport, total: float) -> None:
        """Set the size of the next steps by the time of this one."""
        self.virtual_time += total
        self.last_seconds += _SMOOTHING * (total - self.last_seconds)
        working = 1.0
        if self._on_cpu:  # the rest is waited for the interpreter's lock, and smaller steps wait more often
            working = min(1.0, (time.thread_time() - report.worked) / total)
        prefix = report.seconds["prefix"]
        if step.begun:
            self.sizes.rows.learn(step.begun, working * prefix, self._wanted_seconds)
        if report.pairs:
            self.sizes.pairs.learn(report.pairs, working * (total - prefix), self._wanted_seconds)

    def due(self, now: float) -> tuple[list[Request], list[Group]]:
        """Whose deadline has come: requests with rows that have not begun, which are late, and the groups of all."""
        due = self._deadlines.pop(now)
        if not due:
            return [], []
        late = [request for request in due if request.admitted < request.rows]
        owners = set(due)
        return late, [group for group in self.running if not owners.isdisjoint(group.requests)]

    def end_due(self, groups: list[Group], now: float) -> Settlement:
        """Hand out what there is of groups that have rows whose deadline has come.

        A group with which that fails stays as it is; what was found of those before it is lost then.
        """
        started = time.perf_counter()
        settlement = _handed_out(groups, now)
        self.running = deque(group for group in self.running if len(group.cohort))
        self.virtual_time += time.perf_counter() - started
        return settlement

    def fail(self, step: Step | None) -> list[Request]:
        """Let the requests of a step that failed leave; the next steps are half as large.

        Args:
            step: the one that failed; None where it could not be planned: all requests leave then.

        Returns:
            Those that have not ended.
        """
        self.sizes.rows.halve()
        self.sizes.pairs.halve()
        failed = self._all_leave() if step is None else step.requests
        gone = set(failed)
        self.partial = deque(request for request in self.partial if request not in gone)
        return [request for request in failed if not request.state.ended]

    def _all_leave(self) -> list[Request]:
        """All requests, which leave."""
        groups = chain.from_iterable(group.requests for group in self.running)
        found = list(dict.fromkeys([*self._half_planned, *self.waiting, *self.partial, *groups, *self._kept_back]))
        self._half_planned = []
        for queue in (self.waiting, self.partial, self.running, self._kept_back):
            queue.clear()
        return found


def _is_of_another(one: Request | Group, client: Client) -> bool:
    """Whether a client has not all of something."""
    return any(request.client != client for request in (one.requests if isinstance(one, Group) else [one]))


def _ticket_of(one: Request | Group) -> Ticket:
    return one.ticket


def _handed_out(groups: list[Group], now: float) -> Settlement:
    """Whom the done rows of groups finish, and who is late. Those rows leave their groups.

    Groups that a deadline ends before their turn may still have rows of requests that have ended: these finish nobody.
    """
    finished: list[Request] = []
    late: list[Request] = []
    for group in groups:
        late += group.late(now)
        done = group.finished(now)
        if done.any():
            parts = list(group.parts(slice(None) if done.all() else done))
            group.drop(~done)  # before they are handed out: what raises so far has changed nothing
            finished += [request for request, part in parts if request.add(part) and not request.state.ended]
    return Settlement(finished, list(dict.fromkeys(late)))
