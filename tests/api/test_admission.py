"""Admission: who is let in to the app while the backlog is nearly full."""

import asyncio
import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcdropout.access import Keyring
from mcdropout.api import interpreter_lock
from mcdropout.api.admission import Admission, was_admitted
from mcdropout.api.connection import Refusal
from mcdropout.api.guard import Guard
from mcdropout.api.hosts import Hosts
from mcdropout.api.interpreter_lock import SwitchInterval, use_usual_interval
from mcdropout.catalogue.registry import Registry
from mcdropout.metrics import Metrics
from mcdropout.predictions import Predictions
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.scheduler import Scheduler
from tests.patience import looping_until, patience


def predictions_of(metrics: Metrics, scheduler: Any) -> Predictions:
    """Of one model, whose network is never run."""
    passes = SimpleNamespace(default=10, maximum=10)
    model = SimpleNamespace(name="net", bundle=SimpleNamespace(manifest=SimpleNamespace(passes=passes)))
    entries = {"net": SimpleNamespace(model=model, error=None)}
    registry = cast("Registry", SimpleNamespace(default="net", entry=entries.get, names=["net"]))
    return Predictions(registry, scheduler, metrics, max_samples=100, on_refusal=SwitchInterval().shorten)


def unguarded(metrics: Metrics) -> Guard:
    return Guard(Keyring(), metrics, {})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def predictions(metrics: Metrics) -> Iterator[Predictions]:
    """With room for three rows."""
    scheduler = Scheduler(metrics, max_queue_rows=3)
    yield predictions_of(metrics, scheduler)
    scheduler.stop()


@pytest.fixture
def admission(predictions: Predictions, metrics: Metrics) -> Admission:
    return Admission(predictions, metrics, Hosts("*"), unguarded(metrics))


def scope(path: str = "/predict", method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}


def test_no_more_are_let_in_at_once_than_there_is_room_for(admission: Admission) -> None:
    async def burst() -> list[bool]:
        return [admission.refusal(scope()) is None for _ in range(5)]

    async def bursts() -> list[list[bool]]:
        found = []
        for _ in range(2):
            found.append(await burst())
            await asyncio.sleep(0)  # the tasks of those let in would run now
        return found

    assert asyncio.run(bursts()) == [[True, True, True, False, False]] * 2


def test_what_asks_for_no_prediction_takes_no_room(admission: Admission) -> None:
    async def others() -> list[bool]:
        for path, method in (("/metrics", "GET"), ("/predict", "GET"), ("/models/net/reload", "POST")):
            assert admission.refusal(scope(path, method)) is None
        return [admission.refusal(scope()) is None for _ in range(4)]

    assert asyncio.run(others()) == [True, True, True, False]


def test_threads_hand_over_more_often_until_nothing_has_been_refused_for_a_while(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = patience(0.6)
    monkeypatch.setattr(interpreter_lock, "_CALM_SECONDS", calm)
    before = sys.getswitchinterval()

    async def flood() -> list[float]:
        use_usual_interval()
        seen = [sys.getswitchinterval()]
        for _ in range(3):
            assert [admission.refusal(scope()) is None for _ in range(4)] == [True, True, True, False]
            seen.append(sys.getswitchinterval())
            await asyncio.sleep(calm * 2 / 3)
            seen.append(sys.getswitchinterval())
        await looping_until(lambda: sys.getswitchinterval() == seen[0])
        return [*seen, sys.getswitchinterval()]

    try:
        usual, *hurried, last = asyncio.run(flood())
    finally:
        sys.setswitchinterval(before)
    assert last == usual
    assert set(hurried) == {hurried[0]}
    assert hurried[0] < usual


def test_a_request_that_is_let_in_is_not_asked_about_again(admission: Admission) -> None:
    async def burst() -> list[dict[str, Any]]:
        scopes = [scope() for _ in range(4)]
        for one in scopes:
            admission.refusal(one)
        return scopes

    assert [was_admitted(one) for one in asyncio.run(burst())] == [True, True, True, False]


def refused(admission: Admission, **more: Any) -> Refusal:
    """The refusal of a request behind those that there is room for."""

    async def ask() -> Refusal | None:
        for _ in range(3):
            admission.refusal(scope())
        return admission.refusal(scope() | more)

    found = asyncio.run(ask())
    assert found is not None
    return found


def test_a_refusal_keeps_the_requests_id_and_is_counted_once(admission: Admission, metrics: Metrics) -> None:
    mine = refused(admission, headers=[(b"x-request-id", b"mine")], query_string=b"mc=0")
    assert mine.status == 503
    assert json.loads(mine.body)["request_id"] == "mine"
    assert b"x-request-id: mine\r\n" in mine.headers
    exposed = metrics.exposition()[0].decode()
    assert 'mcdropout_requests_total{mode="deterministic",model="net",status="503"} 1.0' in exposed
    assert 'mcdropout_refused_total{model="net",reason="queue"} 1.0' in exposed


@pytest.mark.parametrize(
    ("path", "query"), [("/models/none/predict", b""), ("/predict", b"mc=11"), ("/predict", b"mc=many")]
)
def test_what_is_wrong_with_a_request_is_the_apps_to_explain(
    admission: Admission, metrics: Metrics, path: str, query: bytes
) -> None:
    async def ask() -> Refusal | None:
        for _ in range(3):
            admission.refusal(scope())
        return admission.refusal(scope(path) | {"query_string": query})

    assert asyncio.run(ask()) is None
    assert "mcdropout_refused_total{" not in metrics.exposition()[0].decode()


def test_each_is_told_why_it_is_refused_and_not_why_another_was(metrics: Metrics) -> None:
    errors = [OverloadedError("much waits", 3.2), OverloadedError("more waits", 8.0)]
    found = []
    for error in (errors[0], errors[1], errors[1], errors[0]):
        full = SimpleNamespace(refusal=lambda coming, client, error=error: error)
        found.append(refused(Admission(predictions_of(metrics, full), metrics, Hosts("*"), unguarded(metrics))))
    assert [json.loads(one.body)["detail"].split(";")[0].split(": ")[1] for one in found] == [
        "much waits",
        *["more waits"] * 2,
        "much waits",
    ]
    assert [one.headers.partition(b"retry-after: ")[2] for one in found] == [b"4\r\n", b"8\r\n", b"8\r\n", b"4\r\n"]


def test_while_the_server_stops_all_are_the_apps_to_answer(predictions: Predictions, metrics: Metrics) -> None:
    stopping = False
    several = Admission(predictions, metrics, Hosts("*"), unguarded(metrics), stopping=lambda: stopping)
    refused(several)
    stopping = True
    assert several.refusal(scope()) is None


def test_a_refusal_outside_of_an_event_loop_leaves_the_interpreters_lock_as_it_is() -> None:
    use_usual_interval()
    usual = sys.getswitchinterval()
    SwitchInterval().shorten()
    assert sys.getswitchinterval() == usual
