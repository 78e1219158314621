"""The routes of predictions: a request's body to rows, rows to an answer, the answer to a body."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcdropout.api import formats
from mcdropout.api.admission import was_admitted
from mcdropout.api.answering import INLINE_BYTES, answer_of, body_of, compressed, where_it_belongs
from mcdropout.api.encodings import DECODERS
from mcdropout.api.errors import explain, problem_responses
from mcdropout.api.formats import Written
from mcdropout.api.headers import header_of
from mcdropout.api.observe import seen_of
from mcdropout.api.query import ask_of, predicted_by
from mcdropout.api.schemas import PredictQuery, PredictResponse
from mcdropout.api.services import Services
from mcdropout.catalogue.model import Model
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Pause, Planned

NUMBER_BYTES = 64
"""Of an answer: a number, and what comes with it."""

_CODINGS = f"It may be compressed, as Content-Encoding says, by {' or '.join(DECODERS)}."
_DEFAULT_PATH, _MODEL_PATH = "/predict", "/models/{name}/predict"


def routes(services: Services) -> APIRouter:
    """The routes of predictions."""
    router = APIRouter(tags=["predictions"])

    @router.post(_DEFAULT_PATH, summary="Predict with the default model", **documentation())
    async def predict_default(request: Request) -> Response:
        """The default model's prediction for each row, and how far to trust it."""
        return await predict(services, request, "")

    @router.post(_MODEL_PATH, summary="Predict with a model", **documentation("name"))
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
    planned, inputs = await asked(services, request, name)
    accepted = formats.of_answer(header_of(request.scope, b"accept"))
    answered = await answer_of(services, planned, inputs, request.receive, seen_of(request.scope))

    def write(pause: Pause) -> Written:
        services.predictions.observe(answered, pause)
        assert accepted.write is not None
        written = accepted.write(answered, pause)
        if isinstance(written, bytes):
            written = Written(written)
        return compressed(written, request.scope, pause) if accepted.compressible else written

    written = await where_it_belongs(services.at_once, answered.numbers * NUMBER_BYTES, write)
    return Response(written.content, headers=written.headers, media_type=written.media_type or accepted.media_types[0])


async def asked(services: Services, request: Request, name: str) -> tuple[Planned, tuple[Rows, ...]]:
    """What a request asks of a model, and its rows; it is let in, and its body is read.

    Errors are for `api/errors.py` to explain.
    """
    predictions = services.predictions
    ask, client = ask_of(request.scope, name), services.guard.check(request.scope).client
    model, seen = predictions.model(ask), seen_of(request.scope)
    if seen is not None:
        seen.model = model.name
    planned = predictions.plan(model, ask, client)
    if seen is not None:
        seen.mode = planned.mode
    if not was_admitted(request.scope):
        predictions.admit(planned)
    return planned, await rows_of(services, request, model)


async def rows_of(services: Services, request: Request, model: Model) -> tuple[Rows, ...]:
    """The rows in a request's body, as a model's network takes them.

    Errors are for `api/errors.py` to explain.
    """
    given = formats.of_content(header_of(request.scope, b"content-type") or "")
    with services.bodies.share() as share:
        body = await body_of(services, request, share, model.name)
        hook = model.bundle.hook
        read = formats.reader_of(given, partial(header_of, request.scope), hook)
        size = len(body)
        if size <= INLINE_BYTES and (hook is not None or given.grows(body)):
            size = INLINE_BYTES + 1
        inputs: tuple[Rows, ...] = await where_it_belongs(
            services.at_once, size, read, body, model.takes, services.settings.max_rows
        )
        del body
    return inputs


def documentation(*path: str) -> dict[str, Any]:
    """What `/docs` says of a prediction, whose query and body are read here."""
    known = " or ".join(dict.fromkeys(format.name for format in formats.TABLE.values() if format.read))
    problems = {
        400: f"The body is no whole {' or '.join(DECODERS)}, as its encoding says, or the client went away in it.",
        404: "There is no such model.",
        406: "The answer is asked for in what another installation has.",
        413: "The body is larger than the server's limit, as it is or decompressed.",
        415: f"The body is not {known}, or compressed otherwise than by {' or '.join(DECODERS)}.",
        422: "The query or the inputs cannot be used; the detail says what would be accepted.",
        500: "The network answered NaN, infinity, or what is no probability or no variance.",
        504: "The deadline came before each row had the fewest passes.",
        503: "The model is not ready, or the server is overloaded.",
    }
    named = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    fields = PredictQuery.model_json_schema()["properties"].items()
    queried = [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
        for name, schema in fields
    ]
    return {
        "responses": {200: {"model": PredictResponse}, **problem_responses(problems)},
        "openapi_extra": {
            "parameters": [*named, *queried],
            "requestBody": {"description": _CODINGS, "required": True, "content": {}},
        },
    }
