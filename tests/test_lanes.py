"""Lanes, a step at a time: who is in it."""

import time
from concurrent.futures import Future

import numpy as np
import pytest

from service.lanes import Lane, Sizes
from service.loading import Loading, Model, load
from service.requests import Plan, Request
from tests.bundles import CLASSIFIER, write_bundle

PASSES = 10_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_bundle(tmp_path_factory.mktemp("models"), "small", CLASSIFIER), Loading())


@pytest.fixture
def lane(model: Model) -> Lane:
    return Lane(model, 10.0, Sizes.of(model, 16))


def submitted(lane: Lane, rows: int, passes: int = PASSES) -> Request:
    x = np.zeros((rows, 4), np.float32)
    request = Request(lane.model, (x,), 0, Plan(passes), Future(), time.perf_counter())
    lane.submit(request)
    return request


def step(lane: Lane) -> dict[Request, int]:
    """Plan and run a step; how many rows of each request were in it."""
    work = lane.plan()
    lane.run(work)
    lane.end(work)
    counts: dict[Request, int] = {}
    for one in work.beginnings.values():
        for request, (first, end) in zip(one.requests, one.slices, strict=True):
            counts[request] = counts.get(request, 0) + end - first
    for group, _ in work.going:
        for owner in group.owners.tolist():
            counts[group.requests[owner]] = counts.get(group.requests[owner], 0) + 1
    return counts


def test_rows_of_a_request_that_nobody_waits_for_are_in_no_more_steps(lane: Lane) -> None:
    gone, stays = submitted(lane, 2), submitted(lane, 3)
    for _ in range(5):
        assert {*step(lane)} == {gone, stays}
    assert gone.future.cancel()
    for _ in range(5):
        assert {*step(lane)} == {stays}


def test_large_requests_share_each_step_by_turns(lane: Lane) -> None:
    first, second = submitted(lane, 1000, 2), submitted(lane, 1000, 2)
    for _ in range(5):
        counts = step(lane)
        assert counts == {first: 8, second: 8}


@pytest.mark.parametrize(("requests", "times"), [(1, 1), (16, 1), (32, 2), (64, 4), (200, 4)])
def test_steps_may_take_longer_where_many_wait(
    lane: Lane, requests: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[float] = []
    monkeypatch.setattr(type(lane.sizes.rows), "learn", lambda self, used, seconds, wants: wanted.append(wants))
    for _ in range(requests):
        submitted(lane, 1, 2)
    step(lane)
    assert wanted == [10.0 * times] * 2


def test_a_new_request_is_in_the_next_step_whatever_waits(lane: Lane) -> None:
    large = [submitted(lane, 1000, 2) for _ in range(4)]
    step(lane)
    small = submitted(lane, 1, 2)
    counts = step(lane)
    assert counts[small] == 1
    assert counts[large[0]] > 1
