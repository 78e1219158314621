"""Predictions: what becomes of a request that its server gives up."""

import asyncio
from typing import Any

import pytest

from mcdropout.api.answering import awaited


@pytest.mark.parametrize("after", [0.0, 0.01, 0.2])
def test_nobody_computes_for_a_request_that_its_server_cancels(after: float) -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def ask() -> bool:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(awaited(receive, future))
        await asyncio.sleep(after)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return future.cancelled()

    assert asyncio.run(ask())
