"""The client for event loops: `AsyncClient`."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
import httpx

from mcdropout.client import calls
from mcdropout.client.description import ModelDescription, ModelSummary
from mcdropout.client.exchange import Failed, Outcome, Pause, Received, Send, Steps, service_at
from mcdropout.client.response import PredictResponse

T = TypeVar("T")


class AsyncClient:
    """`Client`, whose calls are awaited. Its connections are kept between calls; tasks of one event loop may share it.

    async with AsyncClient("http://127.0.0.1:8000") as client:
        response = await client.predict(rows, model="mnist-cnn", mc=50, seed=7)
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """As `Client`; `http` is an `httpx.AsyncClient`."""
        self._service = service_at(url, key, timeout, retries)
        self._described: dict[str, ModelDescription] = {}
        self._owned = http is None
        self._http = httpx.AsyncClient() if http is None else http

    async def predict(
        self,
        inputs: Any,
        *,
        model: str | None = None,
        mc: int | Literal["auto"] | None = None,
        seed: int | None = None,
        tolerance: float | None = None,
        deadline_ms: float | None = None,
        samples: bool = False,
        fields: str | Sequence[str] | None = None,
        reduce: str | None = None,
        regions: str | Sequence[int] | None = None,
        p: float | None = None,
    ) -> PredictResponse:
        """As `Client.predict`."""
        query = calls.PredictQuery(mc, seed, tolerance, deadline_ms, samples, fields, reduce, regions, p)
        return await self._carry_out(calls.predict(self._service, self._described, inputs, model, query))

    async def models(self) -> tuple[ModelSummary, ...]:
        """As `Client.models`."""
        return await self._carry_out(calls.models(self._service))

    async def model(self, name: str | None = None) -> ModelDescription:
        """As `Client.model`."""
        return await self._carry_out(calls.model(self._service, name))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._carry_out(calls.ready(self._service))

    async def wait_until_ready(self, seconds: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        await self._carry_out(calls.wait_until_ready(self._service, seconds))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._service.url!r})"

    async def _carry_out(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                await anyio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._send(step)

    async def _send(self, step: Send) -> Received | Failed:
        try:
            with anyio.fail_after(step.seconds):
                response = await self._http.request(
                    step.method, step.url, headers=dict(step.headers), content=step.content, timeout=step.seconds
                )
        except TimeoutError as error:
            return Failed(error, in_time=False)
        except httpx.RequestError as error:
            return Failed(error, in_time=not isinstance(error, httpx.TimeoutException))
        return Received(response.status_code, dict(response.headers), response.content)
