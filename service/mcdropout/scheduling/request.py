"""Requests: what was asked for, how far it has come, and what has been found of it so far.

    WAITING     none of its rows has begun
    RUNNING     its first step has begun
    ANSWERED    each of its rows is done
    FAILED      its step failed, or the network answered NaN or infinity; where it shared the step with others, each of
                them lives once more, in a step of its own
    LATE        its deadline came before each row had the fewest passes
    CANCELLED   nobody awaits it any more

`TRANSITIONS` says which may come after which. A request lives once, and one thread at a time owns it. While it is
WAITING, it is in the scheduler's inbox, which a lock guards, and then among the `waiting` of its model's lane. While it
is RUNNING, it is among the `partial` of the lane as long as some of its rows have not begun; those that have are in
groups, of the step under way or among the `running` of the lane. From the inbox on, all that is the scheduler's
thread's alone. In the other states it has ended: whoever awaits its future has the outcome, no step takes it any more,
and groups let go of its rows at their next turn.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.engine import Engine, UnusableOutputError
from mcdropout.engine.arrays import Array
from mcdropout.scheduling.answer import Answer, Part, StepTime, joined
from mcdropout.scheduling.clients import ANYBODY, Client, Ticket
from mcdropout.scheduling.plan import Plan


class Served(Protocol):
    """A model, as far as scheduling knows it."""

    @property
    def name(self) -> str:
        """What metrics and the backlog know it by; a newer version has the same."""

    @property
    def engine(self) -> Engine:
        """What runs it."""


class Future(Protocol):
    """Where an answer is awaited: asyncio's futures, or those of threads."""

    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...


class DeadlineError(Exception):
    """A request's time was over before each of its rows had the fewest passes."""


_MOST_STEPS = 100  # that are told of one request
_PAUSE = 9.0  # before the next estimate, in times that one takes


class State(Enum):
    """How far a request has come."""

    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether no other state comes after it."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[State, frozenset[State]] = {
    # A step that cannot be planned fails what waits, too.
    State.WAITING: frozenset({State.RUNNING, State.FAILED, State.LATE, State.CANCELLED}),
    State.RUNNING: frozenset({State.ANSWERED, State.FAILED, State.LATE, State.CANCELLED}),
    State.ANSWERED: frozenset(),
    State.FAILED: frozenset(),
    State.LATE: frozenset(),
    State.CANCELLED: frozenset(),
}
"""Which states may come after each."""


@dataclass(eq=False)
class Request:
    """A request, from when it was submitted until it has ended.

    Attributes:
        model: which model; a newer version does not matter to it.
        inputs: `[rows, ...]` each.
        seed: what its masks are drawn from.
        plan: how many passes it gets.
        future: where its answer is awaited.
        indices: `[rows]`, the index of each row in what was asked for; None where this is all of it.
        client: who asks.
        watch: who wants to know what there is of the answer after each step; None where nobody does.
        traced: whether it is told which steps it took part in.
        submitted: when it came, by `time.perf_counter()`.
        state: how far it has come.
        started: when its first step began; None while it is WAITING, and where it ended without one.
        admitted: how many of its rows have begun.
        left: how many of its rows are not done.
        ticket: its place in the order of turns, while some of its rows have begun and some have not.
    """

    model: Served
    inputs: tuple[Array, ...]
    seed: int
    plan: Plan
    future: Future
    submitted: float
    indices: npt.NDArray[np.int64] | None = None
    client: Client = ANYBODY
    watch: Callable[[Answer], object] | None = None
    traced: bool = False
    state: State = field(default=State.WAITING, init=False)
    started: float | None = field(default=None, init=False)
    admitted: int = field(default=0, init=False)
    ticket: Ticket = field(default=(0.0, 0), init=False)

    def __post_init__(self) -> None:
        self.rows = self.left = len(self.inputs[0])
        self.bytes = sum(x.nbytes for x in self.inputs)
        self._parts: list[Part] = []
        self._estimated_again = 0.0
        self._steps: list[StepTime] = []

    def become(self, state: State) -> None:
        """Pass on to another state.

        Raises:
            RuntimeError: that state does not come after the present one.
        """
        if state not in TRANSITIONS[self.state]:
            names = ", ".join(sorted(one.value for one in TRANSITIONS[self.state])) or "no other state"
            raise RuntimeError(f"a request that is {self.state.value} becomes {state.value}; {names} may come after it")
        self.state = state

    def again(self) -> "Request":
        """The same, of which nothing has begun."""
        return Request(
            self.model,
            self.inputs,
            self.seed,
            self.plan,
            self.future,
            self.submitted,
            self.indices,
            self.client,
            self.watch,
            self.traced,
        )

    @property
    def cost(self) -> float:
        """How many pairs it may take."""
        return float(self.rows * max(1, self.plan.passes))

    @property
    def awaited(self) -> bool:
        """Whether it is to be answered still: it has not ended, and its future is not cancelled."""
        return not self.state.ended and not self.future.done()

    def is_late(self, now: float) -> bool:
        """Whether its deadline has come."""
        return self.plan.deadline is not None and self.plan.deadline <= now

    def begin(self, now: float) -> None:
        """Its first step begins."""
        self.become(State.RUNNING)
        self.started = now

    def admit(self, rows: int) -> tuple[int, int]:
        """Let so many more of its rows begin: the first, and the one behind the last."""
        first, self.admitted = self.admitted, self.admitted + rows
        return first, self.admitted

    def indices_of(self, first: int, end: int) -> npt.NDArray[np.int64]:
        """The indices of some of its rows, by which their masks are drawn and they are put in order."""
        return np.arange(first, end, dtype=np.int64) if self.indices is None else self.indices[first:end]

    def add(self, part: Part) -> bool:
        """Take in what was found of some rows; True where these were the last."""
        self._parts.append(part)
        self.left -= len(part.rows)
        return self.left == 0

    def trace(self, step: StepTime) -> None:
        """Note a step that it took part in."""
        if self.traced and len(self._steps) < _MOST_STEPS:
            self._steps.append(step)

    def is_watched(self, now: float) -> bool:
        """Whether somebody wants an estimate now. Others wait while one is made: it takes a tenth of the time."""
        return self.watch is not None and now >= self._estimated_again

    def estimate(self, running: Sequence[Part], now: float) -> Answer | None:
        """What the answer would be now, of what there is of the rows that are not done; None where some have none.

        It has no samples: of those that are running some rows may have more than others.
        """
        parts = [replace(part, samples=None) for part in (*self._parts, *running)]
        found = None
        if sum(len(part.rows) for part in parts) == self.rows:
            found = self._answer(joined(parts), now)
        took = time.perf_counter() - now
        self._estimated_again = now + took + _PAUSE * took
        return found

    @property
    def mean_passes(self) -> float:
        """How many passes its rows took on average, when all are done."""
        return sum(float(part.prediction.passes.sum()) for part in self._parts) / self.rows

    def answer(self, now: float) -> Answer:
        """What it gets, when all of its rows are done.

        Raises:
            UnusableOutputError: the network answered NaN, or what is of no use otherwise, for one of its rows.
        """
        whole = joined(self._parts)
        wrong = np.flatnonzero(whole.faults)
        if len(wrong):
            failed = whole.rows[wrong].tolist()
            raise UnusableOutputError(whole.faults[wrong[0]].of(failed[0]), failed)
        return self._answer(whole, now)

    def _answer(self, whole: Part, now: float) -> Answer:
        started = now if self.started is None else self.started
        seed = None if self.plan.passes == 0 else self.seed
        prediction = replace(whole.prediction, seed=seed)
        steps = tuple(self._steps)
        return Answer(prediction, whole.samples, self.plan, started - self.submitted, now - started, steps)
