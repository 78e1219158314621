"""Admission: what is refused, why, and how long what waits is said to take."""

import pytest
from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import Limits, Queue

NET, OTHER = "net", "other"


def queue(rows: int = 10, size: int = 100, seconds: float | None = None) -> Queue:
    return Queue(Limits(rows, size, seconds), Metrics())


def test_one_request_is_taken_whatever_its_size() -> None:
    waiting = queue(seconds=1.0)
    waiting.ran(NET, 1, 10.0)
    assert waiting.refusal_of(NET, 1000, 10**6, 10**9) is None


@pytest.mark.parametrize(
    ("rows", "size", "taken"), [(6, 60, True), (7, 60, False), (6, 61, False), (1, 60, True), (1, 61, False)]
)
def test_rows_and_bytes_are_bounded(rows: int, size: int, taken: bool) -> None:
    waiting = queue()
    waiting.add(NET, 4, 40, 4)
    error = waiting.refusal_of(NET, rows, size, 1)
    assert (error is None) == taken
    if error is not None:
        assert error.reason == "queue"
        assert "4 rows wait already; 10 rows and 100 bytes are accepted" in str(error)


@pytest.mark.parametrize(("coming", "taken"), [(0, True), (5, True), (6, False)])
def test_what_is_about_to_be_taken_counts(coming: int, taken: bool) -> None:
    waiting = queue()
    waiting.add(NET, 4, 40, 4)
    assert (waiting.refusal(coming) is None) == taken


def test_what_left_makes_room() -> None:
    waiting = queue()
    waiting.add(NET, 10, 40, 10)
    assert waiting.refusal()
    waiting.add(NET, -1, -4, -1)
    assert waiting.refusal() is None


def test_one_that_takes_more_bytes_in_the_place_of_another_fills_the_queue() -> None:
    waiting = queue()
    waiting.add(NET, 4, 40, 4)
    assert waiting.refusal() is None
    waiting.add(NET, -4, -40, -4)
    waiting.add(NET, 4, 100, 4)
    assert waiting.refusal()


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_time_is_that_of_the_passes_at_the_rate_of_the_last_second(steps: int) -> None:
    waiting = queue()
    waiting.add(NET, 8, 1, 400)
    assert waiting.seconds == 0.0  # nothing tells yet
    for _ in range(steps):
        waiting.ran(NET, 50, 0.05)
    assert waiting.seconds == pytest.approx(0.4)
    for _ in range(100):  # ten seconds at half the rate
        waiting.ran(NET, 50, 0.1)
    assert waiting.seconds == pytest.approx(0.8, rel=1e-3)
    waiting.add(NET, -4, 0, -200)
    assert waiting.seconds == pytest.approx(0.4, rel=1e-3)


def test_a_step_that_took_long_is_soon_forgotten() -> None:
    waiting = queue()
    waiting.add(NET, 1, 1, 1000)
    waiting.ran(NET, 50, 60.0)
    assert waiting.seconds == pytest.approx(1200)
    for _ in range(20):
        waiting.ran(NET, 50, 0.05)
    assert waiting.seconds < 2.0


def test_each_model_has_its_own_rate() -> None:
    waiting = queue()
    waiting.ran(NET, 1000, 0.1)
    waiting.ran(OTHER, 10, 0.1)
    waiting.add(NET, 1, 1, 100)
    assert waiting.seconds == pytest.approx(0.01)
    waiting.add(OTHER, 1, 1, 100)
    assert waiting.seconds == pytest.approx(1.01)


def test_time_is_bounded_where_that_is_set() -> None:
    waiting = queue(rows=1000, seconds=0.5)
    waiting.add(NET, 8, 1, 8)
    assert waiting.refusal() is None
    waiting.ran(NET, 1, 0.05)
    assert waiting.refusal() is None  # 0.45 s
    assert waiting.refusal_of(NET, 1, 1, 2) is None
    error = waiting.refusal_of(NET, 1, 1, 3)  # 0.55 s
    assert error is not None
    assert error.reason == "wait"
    assert "8 rows wait already, 0.55 s to go with these; 0.5 s are accepted" in str(error)
    assert waiting.refusal(coming=2)
    waiting.add(NET, -8, -1, -8)
    assert waiting.refusal_of(NET, 100, 1, 100) is None


def test_who_is_refused_is_told_when_what_waits_now_is_answered() -> None:
    def retry_after(waiting: Queue) -> float:
        error = waiting.refusal()
        assert error is not None
        return error.retry_after

    waiting = queue(rows=40)
    waiting.add(NET, 40, 1, 40)
    assert retry_after(waiting) == 1.0
    waiting.ran(NET, 1, 0.1)
    assert retry_after(waiting) == pytest.approx(4.0)
    waiting.ran(NET, 1, 100.0)
    assert retry_after(waiting) == 60.0


def test_rows_that_stop_by_themselves_are_expected_to_take_what_others_took() -> None:
    waiting = queue()
    assert waiting.passes(NET, 3, 1000, 8, None) == 3 * 8
    for _ in range(100):
        waiting.stopped(NET, 40.0)
    assert waiting.passes(NET, 3, 1000, 8, None) == pytest.approx(3 * 40)
    assert waiting.passes(NET, 3, 20, 8, None) == 3 * 20
    assert waiting.passes(NET, 3, 1000, None, None) == 3 * 1000
    assert waiting.passes(NET, 3, 0, None, None) == 3
    assert waiting.passes(OTHER, 3, 1000, 8, None) == 3 * 8


def test_a_deadline_bounds_what_is_expected() -> None:
    waiting = queue()
    assert waiting.passes(NET, 1, 10**6, None, 0.2) == 10**6  # nothing tells yet
    assert waiting.passes(NET, 1, 10**6, None, -0.1) == 10**6
    waiting.ran(NET, 100, 0.1)
    assert waiting.passes(NET, 1, 10**6, None, 0.2) == pytest.approx(200)
    assert waiting.passes(NET, 1, 100, None, 0.2) == 100
    assert waiting.passes(NET, 1, 100, None, -0.1) == 0


def test_the_load_is_of_what_is_fullest() -> None:
    waiting = queue(seconds=1.0)
    waiting.add(NET, 5, 80, 5)
    assert waiting.load == pytest.approx(0.8)
    waiting.add(NET, 0, -80, 0)
    assert waiting.load == pytest.approx(0.5)
    waiting.ran(NET, 1, 0.18)
    assert waiting.load == pytest.approx(0.9)
    waiting.ran(NET, 1, 10.0)
    assert waiting.load == 1.0


def test_models_that_have_gone_are_not_remembered_for_ever() -> None:
    waiting = queue()
    waiting.ran(NET, 1, 0.1)
    waiting.add(NET, 1, 1, 10)
    for number in range(1000):
        waiting.add(f"model {number}", 1, 1, 1)
        waiting.add(f"model {number}", -1, -1, -1)
    assert len(waiting._loads) < 300
    assert waiting.seconds == pytest.approx(1.0)
