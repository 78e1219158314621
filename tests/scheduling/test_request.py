"""A request's lifecycle: which state may come after which."""

import re
from concurrent.futures import Future
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import Request, State

# By which states one is reached, and which may come after it.
WAY: dict[State, list[State]] = {
    State.WAITING: [],
    State.RUNNING: [State.RUNNING],
    State.ANSWERED: [State.RUNNING, State.ANSWERED],
    State.FAILED: [State.FAILED],
    State.LATE: [State.LATE],
    State.CANCELLED: [State.CANCELLED],
}
AFTER = {
    State.WAITING: {State.RUNNING, State.FAILED, State.LATE, State.CANCELLED},
    State.RUNNING: {State.ANSWERED, State.FAILED, State.LATE, State.CANCELLED},
}


def request_that_is(state: State) -> Request:
    model: Any = SimpleNamespace(name="net", engine=None)
    request = Request(model, (np.zeros((3, 4), np.float32),), 0, Plan(10), Future(), 1.0)
    for one in WAY[state]:
        request.become(one)
    return request


@pytest.mark.parametrize(("state", "after"), list(product(State, State)))
def test_a_request_passes_on_to_the_states_that_may_come_after_its_own_and_to_no_other(
    state: State, after: State
) -> None:
    request = request_that_is(state)
    if after in AFTER.get(state, set()):
        request.become(after)
        assert request.state is after
    else:
        with pytest.raises(RuntimeError, match=f"a request that is {state.value} becomes {after.value}; "):
            request.become(after)
        assert request.state is state


def test_the_error_says_what_may_come_after() -> None:
    expected = "a request that is running becomes waiting; answered, cancelled, failed, late may come after it"
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        request_that_is(State.RUNNING).become(State.WAITING)
    with pytest.raises(RuntimeError, match="no other state may come after it"):
        request_that_is(State.LATE).become(State.RUNNING)


@pytest.mark.parametrize("state", State)
def test_a_request_is_awaited_until_it_has_ended_or_is_cancelled(state: State) -> None:
    request = request_that_is(state)
    assert state.ended == (state not in (State.WAITING, State.RUNNING))
    assert request.awaited == (not state.ended)
    request.future.cancel()  # type: ignore[attr-defined]
    assert not request.awaited


def test_its_first_step_begins_once() -> None:
    request = request_that_is(State.WAITING)
    assert request.started is None
    request.begin(2.0)
    assert (request.state, request.started) == (State.RUNNING, 2.0)
    with pytest.raises(RuntimeError, match="running becomes running"):
        request.begin(3.0)
    assert request.started == 2.0
