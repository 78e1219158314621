"""The routes of predictions that are watched: server-sent events with an estimate after each step, then the answer.

    event: estimate     what `/predict` would answer with the passes so far
    event: answer       what `/predict` answers; the last, and the only one with samples, where these are asked for
    event: problem      why there is none, as problem details; the last

Where a client reads slowly, it gets fewer estimates, and always the newest.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mcdropout.api.answering import where_it_belongs
from mcdropout.api.errors import explanation, problem_content
from mcdropout.api.formats import json
from mcdropout.api.observe import Timeline, seen_of
from mcdropout.api.predict import NUMBER_BYTES, asked, documentation
from mcdropout.api.services import Services
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause, Planned
from mcdropout.scheduling.answer import Answer, Shares

MEDIA_TYPE = "text/event-stream"
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["estimate", "answer", "problem"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_DEFAULT_PATH, _MODEL_PATH = "/predict/stream", "/models/{name}/predict/stream"


def routes(services: Services) -> APIRouter:
    """The routes of predictions that are watched."""
    router = APIRouter(tags=["predictions"])

    @router.post(_DEFAULT_PATH, summary="Watch a prediction of the default model", **_documentation())
    async def stream_default(request: Request) -> Response:
        """Server-sent events: estimates of more and more passes, then the answer. It ends when the client goes."""
        return await _streamed(services, request, "")

    @router.post(_MODEL_PATH, summary="Watch a prediction", **_documentation("name"))
    async def stream_named(request: Request) -> Response:
        """Server-sent events: estimates of more and more passes, then the answer. It ends when the client goes."""
        return await _streamed(services, request, request.path_params["name"])

    return router


async def _streamed(services: Services, request: Request, name: str) -> Response:
    planned, inputs = await asked(services, request, name)
    return _Streamed(_Events(services, request, planned, inputs))


class _Streamed(StreamingResponse):
    """Sends events. When it ends, however early, nobody waits for the answer any more."""

    def __init__(self, events: "_Events") -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # or nginx would keep them until the end
        super().__init__(events.all(), media_type=MEDIA_TYPE, headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # where the client went before the first event, these never began
            self._events.end()


class _Events:
    """The events of one request, which is submitted when this is made."""

    def __init__(self, services: Services, request: Request, planned: Planned, inputs: tuple[Rows, ...]) -> None:
        """Raises as `Predictions.submit` does."""
        self._services, self._planned, self._seen = services, planned, seen_of(request.scope)
        self._latest: Answer | Shares | None = None
        self._news = asyncio.Event()
        self._future: asyncio.Future[Answer | Shares] = asyncio.get_running_loop().create_future()
        self._future.add_done_callback(lambda _: self._news.set())
        self._submitted = time.perf_counter()
        traced = self._seen is not None and self._seen.is_traced
        self._seed = services.predictions.submit(planned, inputs, self._future, self._estimated, traced=traced)
        if self._seen is not None:
            self._seen.seed, self._seen.passes, self._seen.p = self._seed, planned.plan.passes, planned.p

    def _estimated(self, estimate: Answer | Shares) -> None:
        self._latest = estimate
        self._news.set()

    async def all(self) -> AsyncIterator[bytes]:
        """The events as they come."""
        while not self._future.done():
            await self._news.wait()
            self._news.clear()
            estimate, self._latest = self._latest, None
            if estimate is not None and not self._future.done():
                yield _event(b"estimate", await self._written(estimate))
        try:
            answer = self._future.result()
            yield _event(b"answer", await self._written(answer, is_last=True))
        except Exception as error:
            found = explanation(error)
            request_id = None if self._seen is None else self._seen.request_id
            yield _event(b"problem", problem_content(found, request_id))

    def end(self) -> None:
        """Wait for the answer no more."""
        if not self._future.done():
            self._future.cancel()

    async def _written(self, answer: Answer | Shares, *, is_last: bool = False) -> bytes:
        answered = Answered(self._planned.model, self._seed, answer, self._planned.view, self._planned.p)

        def write(pause: Pause) -> bytes:
            if is_last:
                self._services.predictions.observe(answered, pause)
            return json.write(answered, pause)

        if is_last and self._seen is not None:
            self._seen.rows, self._seen.timeline = answered.rows, Timeline.of(self._submitted, answer)
        written: bytes = await where_it_belongs(self._services.at_once, answered.numbers * NUMBER_BYTES, write)
        return written


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, data)


def _documentation(*path: str) -> dict[str, Any]:
    found = documentation(*path)
    del found["responses"][200]["model"]
    found["responses"][200] |= {
        "description": "Events: estimate, as often as there is one; then answer, or problem. Their data is JSON.",
        "content": {MEDIA_TYPE: {"schema": _EVENT}},
    }
    return found
