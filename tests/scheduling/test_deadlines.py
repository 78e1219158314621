"""Deadlines: who is due, and who is kept."""

import gc
import weakref
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np

from mcdropout.scheduling.deadlines import Deadlines
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import Request, State


def request(deadline: float) -> Request:
    model: Any = SimpleNamespace(name="net", engine=None)
    return Request(model, (np.zeros((1, 4), np.float32),), 0, Plan(10, deadline=deadline), Future(), 0.0)


def test_the_soonest_are_due_first_and_leave() -> None:
    deadlines = Deadlines()
    late, soon, later = request(2.0), request(1.0), request(3.0)
    for one, time in ((late, 2.0), (soon, 1.0), (later, 3.0)):
        deadlines.add(time, one)
    assert deadlines.pop(0.5) == []
    assert deadlines.pop(2.0) == [soon, late]
    assert deadlines.pop(2.0) == []
    assert len(deadlines) == 1


def test_who_is_cancelled_or_has_ended_is_not_due() -> None:
    deadlines = Deadlines()
    cancelled, ended = request(1.0), request(1.0)
    deadlines.add(1.0, cancelled)
    deadlines.add(1.0, ended)
    cancelled.future.cancel()  # type: ignore[attr-defined]
    ended.become(State.FAILED)
    assert deadlines.pop(2.0) == []


def test_those_that_have_ended_leave_long_before_their_time() -> None:
    deadlines = Deadlines()
    waits = [request(1e9) for _ in range(5)]
    for one in waits:
        deadlines.add(1e9, one)
    left = []
    for _ in range(1000):
        one = request(1e9)
        left.append(weakref.ref(one))
        deadlines.add(1e9, one)
        one.become(State.LATE)
        assert len(deadlines) <= 64 + 2 * len(waits) + 1
    del one
    gc.collect()
    assert [one() for one in left] == [None] * 1000
    assert deadlines.pop(2e9) == waits
