"""Admission: what is refused, why, and how long what waits is said to take."""

import threading
from collections.abc import Callable

import pytest

from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import Backlog, Capacity, Claim, OverloadedError, TooCostlyError
from mcdropout.scheduling.plan import Plan
from tests.patience import patience

NET, OTHER = "net", "other"


def backlog_of(rows: int = 10, size: int = 100, seconds: float | None = None) -> Backlog:
    return Backlog(Capacity(rows, size, seconds), Metrics())


def admit(backlog: Backlog, rows: int, size: int, passes: int = 1, model: str = NET) -> Claim:
    return backlog.admit(model, rows, size, Plan(passes), 0.0)


def expected(backlog: Backlog, rows: int, plan: Plan, model: str = NET) -> float:
    """How many pairs a request is expected to take that comes alone."""
    claim = backlog.admit(model, rows, 1, plan, 0.0)
    backlog.release([claim])
    return claim.pairs


def test_one_request_is_admitted_whatever_its_size() -> None:
    backlog = backlog_of(seconds=1.0)
    backlog.ran(NET, 1, 10.0)
    assert admit(backlog, 1000, 10**6, 10**6) == Claim(NET, 1000, 10**6, 10**9, 10**10)


@pytest.mark.parametrize(
    ("rows", "size", "admitted"), [(6, 60, True), (7, 60, False), (6, 61, False), (1, 60, True), (1, 61, False)]
)
def test_rows_and_bytes_are_bounded(rows: int, size: int, admitted: bool) -> None:
    backlog = backlog_of()
    admit(backlog, 4, 40)
    if admitted:
        admit(backlog, rows, size)
        assert backlog.rows == 4 + rows
    else:
        with pytest.raises(OverloadedError, match="4 rows wait already; 10 rows and 100 bytes are accepted") as refusal:
            admit(backlog, rows, size)
        assert refusal.value.reason == "queue"
        assert backlog.rows == 4


@pytest.mark.parametrize(("coming", "admitted"), [(0, True), (5, True), (6, False)])
def test_what_is_about_to_be_admitted_counts(coming: int, admitted: bool) -> None:
    backlog = backlog_of()
    admit(backlog, 4, 40)
    assert (backlog.refusal(coming) is None) == admitted


def test_what_is_released_makes_room() -> None:
    backlog = backlog_of()
    claims = [admit(backlog, 9, 36), admit(backlog, 1, 4)]
    assert backlog.refusal()
    backlog.release(claims[1:])
    assert backlog.refusal() is None
    backlog.release(claims[:1])
    assert (backlog.rows, backlog.load) == (0, 0.0)


def test_one_that_takes_more_bytes_in_the_place_of_another_fills_the_backlog() -> None:
    backlog = backlog_of()
    claim = admit(backlog, 4, 40)
    assert backlog.refusal() is None
    backlog.release([claim])
    admit(backlog, 4, 100)
    assert backlog.refusal()


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_time_is_that_of_the_pairs_at_the_rate_of_the_last_second(steps: int) -> None:
    backlog = backlog_of()
    claims = [admit(backlog, 4, 1, 50) for _ in range(2)]
    assert backlog.seconds == 0.0  # nothing ran yet
    for _ in range(steps):
        backlog.ran(NET, 50, 0.05)
    assert backlog.seconds == pytest.approx(0.4)
    for _ in range(100):  # ten seconds at half the rate
        backlog.ran(NET, 50, 0.1)
    assert backlog.seconds == pytest.approx(0.8, rel=1e-3)
    backlog.release(claims[:1])
    assert backlog.seconds == pytest.approx(0.4, rel=1e-3)


def test_a_step_that_took_long_is_soon_forgotten() -> None:
    backlog = backlog_of()
    admit(backlog, 1, 1, 1000)
    backlog.ran(NET, 50, 60.0)
    assert backlog.seconds == pytest.approx(1200)
    for _ in range(20):
        backlog.ran(NET, 50, 0.05)
    assert backlog.seconds < 2.0


def test_each_model_has_its_own_rate() -> None:
    backlog = backlog_of()
    backlog.ran(NET, 1000, 0.1)
    backlog.ran(OTHER, 10, 0.1)
    admit(backlog, 1, 1, 100)
    assert backlog.seconds == pytest.approx(0.01)
    admit(backlog, 1, 1, 100, OTHER)
    assert backlog.seconds == pytest.approx(1.01)


def test_time_is_bounded_where_that_is_set() -> None:
    backlog = backlog_of(rows=1000, seconds=0.5)
    claim = admit(backlog, 8, 1)
    assert backlog.refusal() is None
    backlog.ran(NET, 1, 0.05)
    assert backlog.refusal() is None  # 0.45 s
    backlog.release([admit(backlog, 1, 1, 2)])
    expected = "8 rows wait already, 0.55 s to go with these; 0.5 s are accepted"
    with pytest.raises(OverloadedError, match=expected) as refusal:
        admit(backlog, 1, 1, 3)
    assert refusal.value.reason == "wait"
    assert backlog.refusal(coming=2)
    backlog.release([claim])
    assert admit(backlog, 100, 1)


def test_who_is_refused_may_come_back_when_what_waits_now_is_answered() -> None:
    def retry_after(backlog: Backlog) -> float:
        error = backlog.refusal()
        assert error is not None
        return error.retry_after

    backlog = backlog_of(rows=40)
    admit(backlog, 40, 1)
    assert retry_after(backlog) == 1.0
    backlog.ran(NET, 1, 0.1)
    assert retry_after(backlog) == pytest.approx(4.0)
    backlog.ran(NET, 1, 100.0)
    assert retry_after(backlog) == 60.0


def test_rows_that_stop_by_themselves_are_expected_to_take_what_others_took() -> None:
    backlog = backlog_of()
    auto = Plan(1000, tolerance=0.01)
    assert expected(backlog, 3, auto) == 3 * 8
    for _ in range(100):
        backlog.stopped(NET, 40.0)
    assert expected(backlog, 3, auto) == pytest.approx(3 * 40)
    assert expected(backlog, 3, Plan(20, tolerance=0.01)) == 3 * 20
    assert expected(backlog, 3, Plan(1000)) == 3 * 1000
    assert expected(backlog, 3, Plan(0)) == 3
    assert expected(backlog, 3, auto, OTHER) == 3 * 8


def test_a_deadline_bounds_what_is_expected() -> None:
    backlog = backlog_of()
    assert expected(backlog, 1, Plan(10**6, deadline=0.2)) == 10**6  # nothing ran yet
    assert expected(backlog, 1, Plan(10**6, deadline=-0.1)) == 10**6
    backlog.ran(NET, 100, 0.1)
    assert expected(backlog, 1, Plan(10**6, deadline=0.2)) == pytest.approx(200)
    assert expected(backlog, 1, Plan(100, deadline=0.2)) == 100
    assert expected(backlog, 1, Plan(100, deadline=-0.1)) == 0


def test_the_load_is_of_what_is_fullest() -> None:
    backlog = backlog_of(seconds=1.0)
    large = admit(backlog, 1, 80)
    admit(backlog, 4, 0)
    assert backlog.load == pytest.approx(0.8)
    backlog.release([large])
    admit(backlog, 1, 0)
    assert backlog.load == pytest.approx(0.5)
    backlog.ran(NET, 1, 0.18)
    assert backlog.load == pytest.approx(0.9)
    backlog.ran(NET, 1, 10.0)
    assert backlog.load == 1.0


def test_models_that_have_gone_are_not_remembered_for_ever() -> None:
    backlog = backlog_of()
    backlog.ran(NET, 1, 0.1)
    admit(backlog, 1, 1, 10)
    auto = Plan(1000, tolerance=0.01)
    backlog.stopped("gone", 40.0)
    assert expected(backlog, 1, auto, "gone") == 40
    for number in range(300):
        backlog.release([admit(backlog, 1, 1, 1, f"model {number}")])
    assert expected(backlog, 1, auto, "gone") == 8
    assert backlog.seconds == pytest.approx(1.0)


def test_all_who_ask_between_two_changes_get_the_same_error() -> None:
    backlog = backlog_of()
    admit(backlog, 10, 1)
    error = backlog.refusal()
    assert error is not None
    assert backlog.refusal() is error
    assert backlog.refusal(coming=1) is not error
    backlog.ran(NET, 1, 0.1)
    assert backlog.refusal() is not error


@pytest.mark.parametrize(
    "change",
    [
        lambda backlog, _: admit(backlog, 1, 1),
        lambda backlog, claim: backlog.release([claim]),
        lambda backlog, _: backlog.ran(NET, 10, 0.1),
        lambda backlog, _: backlog.stopped(NET, 10.0),
    ],
    ids=["admit", "release", "ran", "stopped"],
)
def test_one_thread_at_a_time_changes_it_and_who_asks_waits_for_none(
    change: Callable[[Backlog, Claim], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    backlog = Backlog(Capacity(10), metrics)
    claim = admit(backlog, 3, 1)
    within, go_on = threading.Event(), threading.Event()
    counts = metrics.queue_rows.set

    def held(value: float) -> None:
        counts(value)
        if not within.is_set():
            within.set()
            assert go_on.wait(patience(30))

    monkeypatch.setattr(metrics.queue_rows, "set", held)
    first = threading.Thread(target=lambda: admit(backlog, 1, 1))
    first.start()
    assert within.wait(patience(30))
    second = threading.Thread(target=change, args=(backlog, claim))
    second.start()
    second.join(0.2)
    waited = second.is_alive()
    assert (backlog.rows, backlog.refusal(coming=1)) == (4, None)
    assert backlog.load > 0.0
    go_on.set()
    first.join(30)
    second.join(30)
    assert waited


class TestTheCostOfARequest:
    @staticmethod
    def admit(plan: Plan, rows: int, *, usual: float, ran: float | None = None) -> Claim:
        """Where a pair takes `usual` seconds among many, and took `ran` of late; 2 seconds are accepted."""
        backlog = Backlog(Capacity(10**9, 10**9, 60.0, 2.0), Metrics())
        if ran is not None:
            for _ in range(20):
                backlog.ran(NET, 10, 10 * ran)
        return backlog.admit(NET, rows, 1, plan, 100.0, seconds_a_pair=usual)

    @pytest.mark.parametrize(
        ("usual", "ran"),
        [(0.001, None), (0.001, 0.001), (0.001, 0.05), (0.0, 0.001)],
        ids=["loaded", "ran", "few", "no"],
    )
    def test_is_bounded_by_what_a_pair_takes_among_many(self, usual: float, ran: float | None) -> None:
        self.admit(Plan(100), 19, usual=usual, ran=ran)
        with pytest.raises(
            TooCostlyError, match=r"21 rows with 100 passes would take about 2.1 s here; 2 s are accepted"
        ):
            self.admit(Plan(100), 21, usual=usual, ran=ran)

    def test_is_not_bounded_where_nobody_knows_it(self) -> None:
        self.admit(Plan(10**6), 1000, usual=0.0)

    def test_is_what_its_deadline_leaves(self) -> None:
        self.admit(Plan(10**6, deadline=101.5), 10, usual=0.001)
        with pytest.raises(TooCostlyError):
            self.admit(Plan(10**6, deadline=103.0), 10, usual=0.001)

    def test_refused_takes_no_place(self) -> None:
        backlog = Backlog(Capacity(10, 100, None, 1.0), Metrics())
        with pytest.raises(TooCostlyError):
            backlog.admit(NET, 5, 50, Plan(1000), 0.0, seconds_a_pair=1.0)
        assert (backlog.rows, backlog.seconds) == (0, 0.0)


def test_a_few_slow_passes_do_not_make_a_large_request_seem_to_take_for_ever() -> None:
    backlog = Backlog(Capacity(10**6, 10**9, 60.0), Metrics())
    backlog.ran(NET, 1, 0.002)
    backlog.admit(NET, 4096, 1, Plan(50), 0.0, seconds_a_pair=2e-6)
    assert backlog.seconds == pytest.approx(4096 * 50 * 2e-6)
    assert backlog.refusal() is None
