"""Lanes, a step at a time: who is in it."""

import gc
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from mcdropout.catalogue.model import Model
from mcdropout.scheduling.group import Group
from mcdropout.scheduling.lane import Lane
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import Request, State
from mcdropout.scheduling.step import Step
from mcdropout.scheduling.step_size import StepSize, StepSizes

PASSES = 10_000


@pytest.fixture
def lane(model: Model) -> Lane:
    return Lane(model, 10.0, StepSizes.of(model.engine.steps, 16))


def submitted(lane: Lane, rows: int, passes: int = PASSES) -> Request:
    x = np.zeros((rows, 4), np.float32)
    request = Request(lane.model, (x,), 0, Plan(passes), Future(), time.perf_counter())
    lane.submit(request)
    return request


def step(lane: Lane) -> dict[Request, int]:
    """Run a step; how many rows of each request were in it."""
    planned = lane.plan()
    counts = begun(planned)
    for group, _ in planned.going:
        for owner in group.owners.tolist():
            counts[group.requests[owner]] = counts.get(group.requests[owner], 0) + 1
    for request in lane.settle(planned, lane.run(planned)).finished:
        request.become(State.ANSWERED)
    return counts


def begun(planned: Step) -> dict[Request, int]:
    """How many rows of each request begin in a step."""
    counts: dict[Request, int] = {}
    for one in (planned.deterministic, *planned.beginnings.values()):
        for request, (first, end) in zip(one.requests, one.slices, strict=True):
            counts[request] = counts.get(request, 0) + end - first
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
        return Lane(model, 10.0, StepSizes(StepSize(16, 16), StepSize(64, 64)))

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
            small = submitted(lane, 1, passes)
            assert step(lane)[small] == 1


class TestDeadlines:
    """Steps of 64 pairs, a turn of which is 16."""

    @pytest.fixture
    def lane(self, model: Model) -> Lane:
        return Lane(model, 10.0, StepSizes(StepSize(16, 16), StepSize(64, 64)))

    @staticmethod
    def hurried(lane: Lane, deadline: float, rows: int = 1, passes: int = PASSES) -> Request:
        x = np.zeros((rows, 4), np.float32)
        request = Request(lane.model, (x,), 0, Plan(passes, deadline=deadline), Future(), time.perf_counter())
        lane.submit(request)
        return request

    def test_what_there_is_is_handed_out_in_time_without_a_turn(self, lane: Lane) -> None:
        soon, later = time.perf_counter() + 1000.0, time.perf_counter() + 2000.0
        first, second, other = self.hurried(lane, soon), self.hurried(lane, soon), self.hurried(lane, later)
        step(lane)
        for _ in range(5):
            submitted(lane, 1000, 100)
            step(lane)
        assert lane.due(soon - 1.0) == ([], [])
        late, groups = lane.due(soon)
        assert late == []
        assert {*groups[0].requests} == {first, second, other}
        report = lane.end_due(groups, soon)
        assert ({*report.finished}, report.late) == ({first, second}, [])
        assert (first.left, second.left, other.left) == (0, 0, 1)
        assert first.answer(soon).prediction.passes[0] >= 8
        assert lane.due(soon) == ([], [])
        assert any(other in step(lane) for _ in range(8))

    def test_a_group_that_cannot_be_handed_out_stays_as_it_is_and_is_handed_out_later(
        self, lane: Lane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        soon, later = time.perf_counter() + 1000.0, time.perf_counter() + 2000.0
        hurried, other = self.hurried(lane, soon), self.hurried(lane, later)
        step(lane)
        _, groups = lane.due(soon)
        with monkeypatch.context() as patch:
            patch.setattr(Group, "drop", lambda *_: 1 / 0)  # which copies the rows that go on
            with pytest.raises(ZeroDivisionError):
                lane.end_due(groups, soon)
        assert (hurried.left, other.left) == (1, 1)
        assert lane.end_due(groups, soon).finished == [hurried]
        assert (hurried.left, other.left) == (0, 1)

    def test_nothing_is_left_of_a_group_whose_time_is_over(self, lane: Lane) -> None:
        deadline = time.perf_counter() + 1000.0
        hurried = self.hurried(lane, deadline)
        step(lane)
        _, groups = lane.due(deadline)
        assert lane.end_due(groups, deadline).finished == [hurried]
        assert not lane.busy

    def test_who_has_not_begun_in_time_is_late_and_does_not_begin_once_refused(self, lane: Lane) -> None:
        deadline = time.perf_counter() + 1000.0
        submitted(lane, 1000, 100)
        step(lane)
        late, other = self.hurried(lane, deadline), self.hurried(lane, deadline)
        found, groups = lane.due(deadline)
        assert ({*found}, groups) == ({late, other}, [])
        late.become(State.LATE)
        for _ in range(20):
            step(lane)
        assert (late.admitted, other.admitted) == (0, 1)

    def test_who_has_too_few_passes_is_late(self, lane: Lane) -> None:
        deadline = time.perf_counter() + 1000.0
        hurried = self.hurried(lane, deadline, rows=16)
        lane.sizes.pairs.halve()
        lane.sizes.pairs.halve()
        while hurried.admitted < 16:
            step(lane)
        late, groups = lane.due(deadline)
        few = [group for group in groups if group.cohort.passes < 8]
        assert few
        assert len(few) > 1
        assert (late, lane.end_due(few, deadline).late) == ([], [hurried])  # once, whatever groups it is in

    def test_who_is_late_as_rows_have_not_begun_is_not_late_again_for_those_that_have(self, lane: Lane) -> None:
        deadline = time.perf_counter() + 1000.0
        hurried = self.hurried(lane, deadline, rows=16)
        lane.sizes.pairs.halve()
        lane.sizes.pairs.halve()
        step(lane)
        late, groups = lane.due(deadline)
        assert (late, min(group.cohort.passes for group in groups) < 8) == ([hurried], True)
        hurried.become(State.LATE)
        assert lane.end_due(groups, deadline).late == []

    def test_who_has_ended_is_finished_by_no_deadline(self, lane: Lane) -> None:
        deadline = time.perf_counter() + 1000.0
        cancelled, waits = self.hurried(lane, deadline), self.hurried(lane, deadline)
        step(lane)
        cancelled.become(State.CANCELLED)
        _, groups = lane.due(deadline)
        assert lane.end_due(groups, deadline).finished == [waits]

    def test_who_is_gone_or_has_ended_is_not_late(self, lane: Lane) -> None:
        deadline = time.perf_counter()
        gone, ended, late = (self.hurried(lane, deadline) for _ in range(3))
        assert gone.future.cancel()
        ended.become(State.LATE)
        assert lane.due(deadline) == ([late], [])

    def test_requests_that_were_answered_are_not_kept_for_their_time(self, lane: Lane) -> None:
        left = []
        for _ in range(300):
            request = self.hurried(lane, time.perf_counter() + 3600.0, passes=8)
            left.append(weakref.ref(request))
            for _ in range(3):
                step(lane)
            assert request.state is State.ANSWERED
        del request
        gc.collect()
        assert [one() for one in left] == [None] * 300


def test_a_row_that_goes_on_keeps_no_others(lane: Lane) -> None:
    many, few = submitted(lane, 15, 2), submitted(lane, 1)
    x = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    few.inputs = (x,)
    step(lane)
    while many.left:
        step(lane)
    (group,) = lane.running
    assert group.requests == [few]
    assert len(group.cohort.frontier[0]) == 1
    while few.left:
        step(lane)
    expected = lane.model.engine.predict(x, PASSES, 0)
    assert np.abs(few.answer(0.0).prediction.mean - expected.mean).max() < 1e-6


def test_requests_whose_rows_are_done_are_not_kept_by_others(lane: Lane) -> None:
    x = np.zeros((1, 4), np.float32)
    stops = [Plan(PASSES, tolerance=tolerance) for tolerance in (1.0, 1e-9, 1.0, 1e-9)]
    requests = [Request(lane.model, (x,), seed, plan, Future(), 0.0) for seed, plan in enumerate(stops)]
    for request in requests:
        lane.submit(request)
    while any(request.left for request in requests[::2]):
        step(lane)
    (group,) = lane.running
    assert group.requests == requests[1::2]
    assert group.owners.tolist() == [0, 1]


def test_rows_that_share_what_most_need_go_on_sharing_it(lane: Lane) -> None:
    given = ((15, Plan(PASSES, tolerance=1e-9)), (1, Plan(PASSES - 1, tolerance=1e-9)))
    many, few = (
        Request(lane.model, (np.zeros((rows, 4), np.float32),), 0, plan, Future(), 0.0) for rows, plan in given
    )
    lane.submit(many)
    lane.submit(few)
    for _ in range(3):
        step(lane)
    first, second = lane.running
    assert {*first.requests, *second.requests} == {many, few}
    assert first.cohort.frontier is second.cohort.frontier


@pytest.mark.parametrize(("device", "shrinks"), [("cpu", False), ("cuda", True)])
def test_steps_are_no_smaller_for_having_waited_unless_that_was_for_another_device(
    model: Model, device: str, shrinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, most = model.engine.steps, 16
    deterministic = steps.deterministic

    def waiting(inputs: tuple[np.ndarray, ...]) -> object:
        time.sleep(0.2)
        return deterministic(inputs)

    monkeypatch.setattr(model.engine, "program", replace(model.engine.program, device=device))
    monkeypatch.setattr(steps, "deterministic", waiting)
    lane = Lane(model, 0.1, StepSizes.of(steps, most))
    submitted(lane, most, 0)
    step(lane)
    assert (lane.sizes.rows.now < most) == shrinks
