"""The routes of predictions: a request's body to rows, rows to an answer, the answer to a body."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcdropout.api import formats
from mcdropout.api.admission import was_admitted
from mcdropout.api.encodings import DECODERS, accepts_gzip, decoded, gzipped
from mcdropout.api.errors import Problem, ProblemError, explain
from mcdropout.api.formats import Written
from mcdropout.api.headers import header_of
from mcdropout.api.observe import seen_of
from mcdropout.api.query import ask_of, predicted_by
from mcdropout.api.room import Share
from mcdropout.api.schemas import PredictQuery, PredictResponse
from mcdropout.api.services import Services
from mcdropout.predictions import Answered, Pause
from mcdropout.scheduling.answer import Answer, Shares
from mcdropout.scheduling.backlog import OverloadedError

# Up to this size, in bytes, a body is parsed and an answer is written on the event loop; larger ones in a thread.
_INLINE_BYTES = 64 * 1024
_NUMBER_BYTES = 64  # of an answer: a number, and what comes with it
# Most requests are answered before it is worth looking whether their client is still there.
_UNWATCHED_SECONDS = 0.05
# A thread that pauses for less finds the interpreter's lock free again before another has woken up.
_PAUSE_SECONDS = 0.0001
_CODING = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "What the body is compressed by.",
    "schema": {"type": "string", "enum": [*DECODERS, "identity"]},
}
_DEFAULT_PATH, _MODEL_PATH = "/predict", "/models/{name}/predict"


def routes(services: Services) -> APIRouter:
    """The routes of predictions."""
    router = APIRouter(tags=["predictions"])

    @router.post(_DEFAULT_PATH, summary="Predict with the default model", **_documentation())
    async def predict_default(request: Request) -> Response:
        """The default model's prediction for each row, and how far to trust it."""
        return await predict(services, request, "")

    @router.post(_MODEL_PATH, summary="Predict with a model", **_documentation("name"))
    async def predict_named(request: Request) -> Response:
        """A model's prediction for each row, and how far to trust it."""
        return await predict(services, request, request.path_params["name"])

    return router


class PredictMiddleware:
    """Answers predictions before FastAPI's own middleware and routing, which cost 3 to 15% of the throughput.

    The routes of the same paths say in `/docs` what there is, and answer what comes another way: below another root.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app, self._services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = predicted_by(scope)
        if name is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await predict(self._services, request, name)
        except Exception as error:  # Starlette would raise one that nothing was foreseen for, and uvicorn hang up
            response = explain(request, error)
        await response(scope, receive, send)


async def predict(services: Services, request: Request, name: str) -> Response:
    """A model's prediction, the default one's where the name is empty, for each row of a request.

    Errors are for `api/errors.py` to explain.
    """
    predictions, settings = services.predictions, services.settings
    ask = ask_of(request.scope, name, services.guard.check(request.scope).client)
    model, seen = predictions.model(ask), seen_of(request.scope)
    if seen is not None:
        seen.model = model.name
    planned = predictions.plan(model, ask)
    if seen is not None:
        seen.mode = planned.mode
    if not was_admitted(request.scope):
        predictions.admit(planned)
    given = formats.of_content(header_of(request.scope, b"content-type") or "")
    with services.bodies.share() as share:
        try:
            body = await _body(request, settings.max_body_bytes, share, services.at_once)
        except OverloadedError as error:
            predictions.refused(model.name, error)
            raise
        takes, read = planned.model.takes, formats.reader_of(given, partial(header_of, request.scope))
        size = len(body)
        if size <= _INLINE_BYTES and given.grows(body):
            size = _INLINE_BYTES + 1
        inputs = await _where_it_belongs(services.at_once, size, read, body, takes, settings.max_rows)
        del body
    future: asyncio.Future[Answer | Shares] = asyncio.get_running_loop().create_future()
    seed = predictions.submit(planned, inputs, future)
    answered = Answered(planned.model, seed, await _awaited(request, future), planned.view)
    if seen is not None:
        seen.rows, seen.seed, seen.passes = answered.rows, seed, planned.plan.passes
    accepted = formats.of_answer(header_of(request.scope, b"accept"))

    def write(pause: Pause) -> Written:
        predictions.observe(answered, pause)
        assert accepted.write is not None
        written = accepted.write(answered, pause)
        if isinstance(written, bytes):
            written = Written(written)
        if (
            accepted.compressible
            and len(written.content) > _INLINE_BYTES
            and accepts_gzip(header_of(request.scope, b"accept-encoding"))
        ):
            return _compressed(written, pause)
        return written

    written = await _where_it_belongs(services.at_once, answered.numbers * _NUMBER_BYTES, write)
    return Response(written.content, headers=written.headers, media_type=written.media_type or accepted.media_types[0])


def _compressed(written: Written, pause: Pause) -> Written:
    headers = {**written.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Written(gzipped(written.content, pause), headers, written.media_type)


async def _awaited(request: Request, future: "asyncio.Future[Answer | Shares]") -> Answer | Shares:
    """The answer, unless the client goes away before: then nobody waits for it any more.

    Raises:
        ProblemError: 499 where the client went away.
    """
    gone: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({future}, timeout=_UNWATCHED_SECONDS)
        if not future.done():
            gone = asyncio.ensure_future(_gone(request))
            waited: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:  # or it was cancelled itself
        if gone is not None:
            gone.cancel()
        if not future.done():
            future.cancel()
    if future.cancelled():
        raise ProblemError(499, "the client went away before it was answered")
    return future.result()


async def _gone(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, limit: int, share: Share, at_once: CapacityLimiter) -> bytes:
    coding = header_of(request.scope, b"content-encoding")
    too_large = ProblemError(413, f"the body is larger than {limit} bytes; at most that many are accepted")
    if int(header_of(request.scope, b"content-length") or 0) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in decoded(coding, request.stream(), at_once):
            size += len(part)
            if size > limit:
                raise too_large
            share.take(len(part))
            parts.append(part)
    except ClientDisconnect as error:
        raise ProblemError(400, f"the client went away after {size} bytes of its body") from error
    return b"".join(parts)


async def _where_it_belongs(at_once: CapacityLimiter, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` at once where `size`, in bytes, is small, else in a thread that leaves the event loop free.

    Its last argument is what to call between its parts: a thread that never waits holds the interpreter's lock for
    milliseconds, which everybody else needs for microseconds.
    """
    if size <= _INLINE_BYTES:
        return function(*arguments, _no_pause)
    return await to_thread.run_sync(partial(function, *arguments, _pause), limiter=at_once)


def _no_pause() -> None:
    pass


def _pause() -> None:
    """Let other threads go on."""
    time.sleep(_PAUSE_SECONDS)


def _documentation(*path: str) -> dict[str, Any]:
    """What `/docs` says of a prediction, whose query and body are read here."""
    known = " or ".join(dict.fromkeys(format.name for format in formats.TABLE.values() if format.read))
    problems = {
        400: f"The body is no whole {' or '.join(DECODERS)}, as its encoding says, or the client went away in it.",
        404: "There is no such model.",
        413: "The body is larger than the server's limit, as it is or decompressed.",
        415: f"The body is not {known}, or compressed otherwise than by {' or '.join(DECODERS)}.",
        422: "The query or the inputs cannot be used; the detail says what would be accepted.",
        500: "The network answered NaN, infinity, or what is no probability or no variance.",
        504: "The deadline came before each row had the fewest passes.",
        503: "The model is not ready, or the server is overloaded.",
    }
    problem = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    responses: dict[int, Any] = {status: {"description": text, "content": problem} for status, text in problems.items()}
    named = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    fields = PredictQuery.model_json_schema()["properties"].items()
    queried = [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
        for name, schema in fields
    ]
    return {
        "responses": {200: {"model": PredictResponse}, **responses},
        "openapi_extra": {"parameters": [*named, *queried, _CODING], "requestBody": {"required": True, "content": {}}},
    }


def with_formats(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document, with the formats that there are now in what predictions take and give."""
    for path in (_DEFAULT_PATH, _MODEL_PATH):
        operation = document["paths"][path]["post"]
        taken, given = operation["requestBody"]["content"], operation["responses"]["200"]["content"]
        for media_type, format in formats.TABLE.items():
            if format.read is not None:
                taken.setdefault(media_type, {"schema": format.body_schema})
            if format.write is not None and media_type == format.media_types[0]:
                given.setdefault(media_type, {"schema": format.answer_schema})
        _describe_headers(operation)
    return document


def _describe_headers(operation: dict[str, Any]) -> None:
    """Add the headers that formats read and write to a prediction's document."""
    known = {(one["in"], one["name"]) for one in operation["parameters"]}
    sent = operation["responses"]["200"].setdefault("headers", {})
    for media_type, format in formats.TABLE.items():
        for header in format.headers:
            if ("header", header.name) not in known:
                operation["parameters"].append(
                    {
                        "name": header.name,
                        "in": "header",
                        "required": False,
                        "description": f"{header.description} For {media_type}.",
                        "example": header.example,
                        "schema": {"type": "string"},
                    }
                )
        for name, description in format.answer_headers.items():
            sent.setdefault(name, {"description": f"{description} Not with JSON.", "schema": {"type": "string"}})
