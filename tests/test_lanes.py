"""Lanes, a step at a time: who is in it."""

import time
from concurrent.futures import Future

import numpy as np
import pytest

from service.lanes import Lane
from service.loading import Loading, Model, load
from service.requests import Plan, Request
from service.sizes import Limit, Sizes
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


class TestTurns:
    """Steps of 64 pairs, a turn of which is 16."""

    @pytest.fixture
    def lane(self, model: Model) -> Lane:
        return Lane(model, 10.0, Sizes(Limit(16, 16), Limit(64, 64)))

    def test_what_a_turn_can_finish_goes_before_what_is_new(self, lane: Lane) -> None:
        large, small = submitted(lane, 1000, 100), submitted(lane, 1, 24)
        step(lane)
        assert small.left == 1
        new = [submitted(lane, 1, 16) for _ in range(20)]
        counts = step(lane)
        assert small.left == 0
        assert counts[large] >= 1
        assert [request for request in new if request in counts] == new[:3]

    def test_what_has_waited_longest_has_a_turn_however_much_is_new(self, lane: Lane) -> None:
        large = [submitted(lane, 1000, 100) for _ in range(2)]
        step(lane)
        seen = dict.fromkeys(large, 0)
        for _ in range(10):
            for _ in range(8):
                submitted(lane, 1, 16)
            for request in {*step(lane)} & {*large}:
                seen[request] += 1
        assert all(count >= 3 for count in seen.values())

    def test_rows_that_may_stop_early_do_not_keep_new_ones_waiting(self, lane: Lane) -> None:
        x = np.zeros((1000, 4), np.float32)
        auto = Plan(PASSES, tolerance=1e-9)
        for _ in range(4):
            lane.submit(Request(lane.model, (x,), 0, auto, Future(), time.perf_counter()))
        for _ in range(10):
            step(lane)
        for passes in (0, 16):
            assert step_with(lane, submitted(lane, 1, passes)) == 1


def step_with(lane: Lane, request: Request) -> int:
    """How many rows of a request the next step takes."""
    work = lane.plan()
    beginnings = [work.deterministic, *work.beginnings.values()]
    counts = [
        end - first
        for one in beginnings
        for owner, (first, end) in zip(one.requests, one.slices, strict=True)
        if owner is request
    ]
    lane.run(work)
    lane.end(work)
    return sum(counts)
