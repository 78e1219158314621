"""Refusals: who is let in to the app while the queue is nearly full."""

import asyncio
import json
import sys
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from mcdropout.api import switching
from mcdropout.api.connection import Refusal
from mcdropout.api.refusals import Refusals
from mcdropout.api.switching import Switching
from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.scheduler import Scheduler

from tests.patience import looping_until, patience


class _Model(SimpleNamespace):
    """It can be referred to weakly, which a namespace cannot."""


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    """Of an app with one model and room for three rows."""
    passes = SimpleNamespace(default=10, maximum=10)
    model = _Model(name="net", bundle=SimpleNamespace(manifest=SimpleNamespace(passes=passes)))
    entry = SimpleNamespace(model=model, error=None)
    registry = SimpleNamespace(default="net", entry=lambda name: entry, names=["net"])
    metrics = Metrics()
    scheduler = Scheduler(metrics, max_queue_rows=3)
    state: Any = SimpleNamespace(registry=registry, metrics=metrics, scheduler=scheduler, switching=Switching())
    yield Refusals(cast("FastAPI", SimpleNamespace(state=state)))
    scheduler.stop()


def scope(path: str = "/predict", method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}


def test_no_more_are_let_in_at_once_than_there_is_room_for(refusals: Refusals) -> None:
    async def burst() -> list[bool]:
        return [refusals.of(scope()) is None for _ in range(5)]

    async def bursts() -> list[list[bool]]:
        found = []
        for _ in range(2):
            found.append(await burst())
            await asyncio.sleep(0)  # the tasks of those let in would run now
        return found

    assert asyncio.run(bursts()) == [[True, True, True, False, False]] * 2


def test_what_asks_for_no_prediction_takes_no_room(refusals: Refusals) -> None:
    async def others() -> list[bool]:
        for path, method in (("/metrics", "GET"), ("/predict", "GET"), ("/models/net/reload", "POST")):
            assert refusals.of(scope(path, method)) is None
        return [refusals.of(scope()) is None for _ in range(4)]

    assert asyncio.run(others()) == [True, True, True, False]


def test_threads_hand_over_more_often_until_nothing_has_been_refused_for_a_while(
    refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = patience(0.6)
    monkeypatch.setattr(switching, "_CALM_SECONDS", calm)
    before = sys.getswitchinterval()

    async def flood() -> list[float]:
        Switching.begin()
        seen = [sys.getswitchinterval()]
        for _ in range(3):
            assert [refusals.of(scope()) is None for _ in range(4)] == [True, True, True, False]
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


def test_who_asks_again_is_told_by_what_is_now(refusals: Refusals) -> None:
    state = refusals._state
    passes = SimpleNamespace(default=0, maximum=10)
    other = _Model(name="new", bundle=SimpleNamespace(manifest=SimpleNamespace(passes=passes)))

    async def ask() -> list[Refusal | None]:
        asked = scope() | {"headers": [(b"x-request-id", b"mine")]}
        assert [refusals.of(asked) for _ in range(3)] == [None] * 3
        first, fourth = refusals.of(asked), refusals.of(scope())
        assert first is not None
        assert fourth is not None
        told = [first.again(), fourth.again(), fourth.again()]
        state.registry.entry = lambda name: SimpleNamespace(model=other, error=None)
        told.append(first.again())
        state.registry.entry = lambda name: None
        told.append(first.again())
        state.registry.entry = lambda name: SimpleNamespace(model=other, error=None)
        await asyncio.sleep(0)  # those let in have come, and there is room
        told += [first.again(), first.again()]
        assert refusals._coming == 0  # nobody was let in by that
        return told

    same, new, newer, changed, *others = asyncio.run(ask())
    assert others == [None] * 3
    ids = [json.loads(one.body)["request_id"] if one else None for one in (same, new, newer, changed)]
    assert ids[0] == ids[3] == "mine"
    assert len(set(ids)) == 3
    counted = state.metrics.requests
    for model, mode, count in (("net", "mc", 5), ("new", "deterministic", 1)):
        assert counted.labels(model, mode, "503")._value.get() == count


def test_no_model_is_kept_for_those_that_may_ask_again(refusals: Refusals) -> None:
    state = refusals._state
    state.scheduler.refusal = lambda coming: OverloadedError("much waits")
    passes = SimpleNamespace(default=10, maximum=10)
    gone = _Model(name="gone", bundle=SimpleNamespace(manifest=SimpleNamespace(passes=passes)))
    entries = {"net": SimpleNamespace(model=gone, error=None)}
    state.registry.entry = entries.get
    told: list[Refusal] = []
    asyncio.run(_ask(refusals, told))
    left = weakref.ref(gone)
    entries.clear()
    del gone
    assert left() is None
    assert told[0].again() is None


def test_each_is_told_why_it_is_refused_and_not_why_another_was(refusals: Refusals) -> None:
    errors = [OverloadedError("much waits", 3.2), OverloadedError("more waits", 8.0)]
    told = []
    for error in (errors[0], errors[1], errors[1], errors[0]):
        refusals._state.scheduler.refusal = lambda coming, error=error: error
        asyncio.run(_ask(refusals, told))
    assert [json.loads(one.body)["detail"].split(";")[0].split(": ")[1] for one in told] == [
        "much waits",
        *["more waits"] * 2,
        "much waits",
    ]
    assert [one.headers.partition(b"retry-after: ")[2] for one in told] == [b"4\r\n", b"8\r\n", b"8\r\n", b"4\r\n"]


async def _ask(refusals: Refusals, told: list[Refusal]) -> None:
    refused = refusals.of(scope())
    assert refused is not None
    told.append(refused)


def test_while_the_server_stops_all_are_the_apps_to_answer(refusals: Refusals) -> None:
    stopping = False
    several = Refusals(cast("FastAPI", SimpleNamespace(state=refusals._state)), stopping=lambda: stopping)

    async def ask() -> list[Refusal | None]:
        nonlocal stopping
        *_, refused = [several.of(scope()) for _ in range(4)]
        assert refused is not None
        told = [refused.again()]
        stopping = True
        return [*told, refused.again(), several.of(scope())]

    before, *after = asyncio.run(ask())
    assert before is not None
    assert after == [None, None]
