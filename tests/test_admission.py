"""Admission: what is refused, why, and how long what waits is said to take."""

import pytest

from service.admission import Limits, Queue
from service.metrics import Metrics


def queue(rows: int = 10, size: int = 100, seconds: float | None = None) -> Queue:
    return Queue(Limits(rows, size, seconds), Metrics())


def test_one_request_is_taken_whatever_its_size() -> None:
    assert queue().refusal(1000, 10**6) is None


@pytest.mark.parametrize(
    ("rows", "size", "coming", "taken"),
    [(6, 60, 0, True), (7, 60, 0, False), (6, 61, 0, False), (5, 1, 1, True), (6, 1, 1, False)],
)
def test_rows_and_bytes_are_bounded(rows: int, size: int, coming: int, taken: bool) -> None:
    waiting = queue()
    waiting.add(4, 40)
    error = waiting.refusal(rows, size, coming)
    assert (error is None) == taken
    if error is not None:
        assert error.reason == "queue"
        assert f"{4 + coming} rows wait already; 10 rows and 100 bytes are accepted" in str(error)


def test_what_left_makes_room() -> None:
    waiting = queue()
    waiting.add(10, 40)
    assert waiting.refusal()
    waiting.add(-1, -4)
    assert waiting.refusal() is None


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_the_time_is_that_of_the_rate_of_the_last_second(steps: int) -> None:
    waiting = queue()
    waiting.add(8, 1)
    assert waiting.seconds() == 0.0  # nothing tells yet
    for _ in range(steps):
        waiting.answered(1, 0.05)
    assert waiting.seconds() == pytest.approx(8 * 0.05)
    assert waiting.seconds(2) == pytest.approx(10 * 0.05)
    for _ in range(200):  # ten seconds at half the rate
        waiting.answered(1, 0.1)
    assert waiting.seconds() == pytest.approx(8 * 0.1, rel=1e-3)


def test_a_step_that_answers_nothing_takes_time() -> None:
    waiting = queue()
    waiting.add(8, 1)
    waiting.answered(1, 0.1)
    for _ in range(3):
        waiting.answered(0, 0.1)
    assert waiting.seconds() > 4 * 8 * 0.1


def test_time_is_bounded_where_that_is_set() -> None:
    waiting = queue(rows=1000, seconds=0.5)
    waiting.add(8, 1)
    assert waiting.refusal() is None
    waiting.answered(1, 0.05)
    assert waiting.refusal() is None  # 0.45 s
    error = waiting.refusal(rows=3)  # 0.55 s
    assert error is not None
    assert error.reason == "wait"
    assert "8 rows wait already, 0.55 s to go with these; 0.5 s are accepted" in str(error)
    assert waiting.refusal(coming=2)
    waiting.add(-8, -1)
    assert waiting.refusal(rows=100) is None


def test_who_is_refused_is_told_when_what_waits_now_is_answered() -> None:
    waiting = queue(rows=40)
    waiting.add(40, 1)
    error = waiting.refusal()
    assert error is not None
    assert error.retry_after == 1.0
    waiting.answered(1, 0.1)
    error = waiting.refusal()
    assert error is not None
    assert error.retry_after == pytest.approx(4.0)
    waiting.answered(0, 100.0)
    error = waiting.refusal()
    assert error is not None
    assert error.retry_after == 60.0


def test_the_load_is_of_what_is_fullest() -> None:
    waiting = queue(seconds=1.0)
    waiting.add(5, 80)
    assert waiting.load == pytest.approx(0.8)
    waiting.add(0, -80)
    assert waiting.load == pytest.approx(0.5)
    waiting.answered(1, 0.18)
    assert waiting.load == pytest.approx(0.9)
    waiting.answered(0, 10.0)
    assert waiting.load == 1.0
