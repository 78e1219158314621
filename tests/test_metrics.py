"""Metrics: series that are found sooner than by their labels, and what is forgotten."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from mcdropout.api.observe import ObserveMiddleware
from mcdropout.metrics import Metrics


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition()[0].decode().splitlines() if line.startswith(name)]


def test_a_series_is_that_of_its_labels() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(2)
    metrics.of(metrics.rows, "a").inc()
    metrics.rows.labels("a").inc(4)
    metrics.of(metrics.rows, "b").inc()
    metrics.of(metrics.cancelled, "a").inc(9)
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="a"} 7.0',
        'mcdropout_rows_total{model="b"} 1.0',
    ]


def test_a_model_that_comes_back_is_counted_anew() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(5)
    metrics.of(metrics.rows, "b").inc(5)
    metrics.forget("a")
    assert lines(metrics, "mcdropout_rows_total") == ['mcdropout_rows_total{model="b"} 5.0']
    metrics.of(metrics.rows, "a").inc()
    metrics.of(metrics.rows, "b").inc()
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="b"} 6.0',
        'mcdropout_rows_total{model="a"} 1.0',
    ]


def test_a_request_that_its_server_cancels_is_the_clients_end_and_no_failure() -> None:
    metrics = Metrics()

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def asked() -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        task = asyncio.create_task(ObserveMiddleware(never, metrics)(scope, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asked())
    told = metrics.exposition()[0].decode()
    assert 'mcdropout_requests_total{mode="unknown",model="unknown",status="499"} 1.0' in told
