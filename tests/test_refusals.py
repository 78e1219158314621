"""Refusals: who is let in to the app while the queue is nearly full."""

import asyncio
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI

from service import switching
from service.api.refusals import Refusals
from service.metrics import Metrics
from service.scheduler import Scheduler
from service.switching import Switching


class _Model(SimpleNamespace):
    """It can be referred to weakly, which a namespace cannot."""


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    """Of an app with one model and room for three rows."""
    passes = SimpleNamespace(default=10, maximum=10)
    model = _Model(name="net", bundle=SimpleNamespace(manifest=SimpleNamespace(passes=passes)))
    entry = SimpleNamespace(model=model, error=None)
    registry = SimpleNamespace(default="net", entry=lambda name: entry)
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
    monkeypatch.setattr(switching, "_CALM_SECONDS", 0.6)
    before = sys.getswitchinterval()

    async def flood() -> list[float]:
        Switching.begin()
        seen = [sys.getswitchinterval()]
        for _ in range(3):
            assert [refusals.of(scope()) is None for _ in range(4)] == [True, True, True, False]
            seen.append(sys.getswitchinterval())
            await asyncio.sleep(0.4)
            seen.append(sys.getswitchinterval())
        await asyncio.sleep(1.5)
        return [*seen, sys.getswitchinterval()]

    try:
        usual, *hurried, last = asyncio.run(flood())
    finally:
        sys.setswitchinterval(before)
    assert last == usual
    assert set(hurried) == {hurried[0]}
    assert hurried[0] < usual
