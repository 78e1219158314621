"""Errors, as RFC 9457 problem details (`application/problem+json`); below /v2 as the Open Inference Protocol has them.

What an error comes to is decided in one place, whichever way it is written.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from mcdropout.api.formats import MediaTypeError, NotAcceptableError
from mcdropout.api.observe import seen_of
from mcdropout.api.schemas import PredictQuery
from mcdropout.catalogue.problems import described
from mcdropout.catalogue.registry import ConflictError, RefusedError, UnknownModelError
from mcdropout.catalogue.rows import RowsError
from mcdropout.engine import UnusableOutputError
from mcdropout.engine.stopping import FEWEST_PASSES
from mcdropout.predictions import InvalidAskError, NotReadyError
from mcdropout.scheduling.backlog import OverloadedError, TooCostlyError
from mcdropout.scheduling.request import DeadlineError

_log = structlog.get_logger("api")

_MOST_DETAIL = 2000  # characters
_PHRASES = {int(status): status.phrase for status in HTTPStatus}


class Problem(BaseModel):
    """Problem details, as RFC 9457 has them."""

    type: str = Field("about:blank", description="What kind of problem this is.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What was received, and what would be accepted.")
    request_id: str | None = Field(None, description="The request's id, as in the logs and in X-Request-ID.")


def problem_responses(texts: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """What the API's description says of the statuses that come with problem details, by what each means."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}


@dataclass(frozen=True)
class Explanation:
    """What a client gets for an error, but for the request's id.

    Attributes:
        status: the HTTP status code.
        detail: what was received, and what would be accepted.
        headers: to send along.
    """

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


class ProblemError(Exception):
    """A request cannot be answered for a reason that only HTTP knows: it says itself with which status."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.explanation = Explanation(status, detail, headers or {})


def _as_it_says(status: int, headers: dict[str, str] | None = None) -> Callable[[Exception], Explanation]:
    return lambda error: Explanation(status, str(error), headers or {})


def _http(error: HTTPException) -> Explanation:
    return Explanation(error.status_code, str(error.detail), dict(error.headers or {}))


def _invalid(error: RequestValidationError) -> Explanation:
    problems = [{**problem, "loc": problem["loc"][1:] or ("body",)} for problem in error.errors()]
    unknown = [problem["loc"][0] for problem in problems if problem["type"] == "extra_forbidden"]
    found = described(problem for problem in problems if problem["type"] != "extra_forbidden")
    accepted = ", ".join(PredictQuery.model_fields)
    where = "query " if any(problem["loc"][0] == "query" for problem in error.errors()) else ""
    return Explanation(
        422,
        "; ".join(
            [f"unknown {where}parameter {name!r}; {accepted} are accepted" for name in unknown]
            + [f"{name} {what}" for name, what in found.items()]
        ),
    )


def _overloaded(error: OverloadedError) -> Explanation:
    wait = {"Retry-After": str(math.ceil(error.retry_after))}
    return Explanation(503, f"the server is overloaded: {error}; try again", wait)


def _late(error: DeadlineError) -> Explanation:
    return Explanation(
        504,
        f"the deadline came before each row had its first passes ({FEWEST_PASSES}, or as many as were asked for); "
        "a later deadline_ms is accepted",
    )


def _unusable(error: UnusableOutputError) -> Explanation:
    return Explanation(500, f"{error}; inputs like those that it was trained on are accepted")


def _anything(error: Exception) -> Explanation:
    _log.error("request failed", exc_info=error)
    return Explanation(500, "the server failed to answer; its log has the cause under this request's id")


# What each error comes to over HTTP; of several that fit, the one that is nearest in its class's ancestry.
_TABLE: dict[type[Exception], Callable[[Any], Explanation]] = {
    ProblemError: lambda error: error.explanation,
    HTTPException: _http,
    RequestValidationError: _invalid,
    MediaTypeError: _as_it_says(415),
    NotAcceptableError: _as_it_says(406),
    RowsError: _as_it_says(422),
    InvalidAskError: _as_it_says(422),
    UnknownModelError: _as_it_says(404),
    NotReadyError: _as_it_says(503, {"Retry-After": "5"}),
    ConflictError: _as_it_says(409),
    RefusedError: _as_it_says(422),
    TooCostlyError: _as_it_says(422),
    OverloadedError: _overloaded,
    DeadlineError: _late,
    UnusableOutputError: _unusable,
    Exception: _anything,
}


def explanation(error: Exception) -> Explanation:
    """What a client gets for an error. One that nothing was foreseen for is logged."""
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)(error)


def problem_content(explained: Explanation, request_id: str | None) -> bytes:
    """A `Problem` as JSON."""
    title = _PHRASES.get(explained.status, "Client Closed Request")
    detail = explained.detail
    if len(detail) > _MOST_DETAIL:  # it quotes what was sent
        detail = f"{detail[:_MOST_DETAIL]}..."
    return orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": explained.status,
            "detail": detail,
            "request_id": request_id,
        }
    )


def is_of_inference_protocol(scope: Scope) -> bool:
    """Whether a request is one of the Open Inference Protocol."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path == "/v2" or path.startswith("/v2/")


def explain(request: Request, error: Exception) -> Response:
    """The response to a request that ended in an error, which is of no use to anybody afterwards."""
    found = explanation(error)
    _let_go(error)
    seen = seen_of(request.scope)
    if is_of_inference_protocol(request.scope):
        return Response(orjson.dumps({"error": found.detail}), found.status, found.headers, "application/json")
    content = problem_content(found, None if seen is None else seen.request_id)
    return Response(content, found.status, found.headers, "application/problem+json")


def _let_go(error: BaseException) -> None:
    """Have an error hold nothing any more: its traceback holds the request's body, and in a circle it may be kept with
    that until there is garbage enough to look for."""
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None:
            errors += [one.__cause__, one.__context__]
            one.__cause__ = one.__context__ = one.__traceback__ = None


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    async def on_error(request: Request, error: Exception) -> Response:
        return explain(request, error)

    async def on_http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"there is nothing at {request.url.path}; /docs lists what there is"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            detail = f"{request.method} is not accepted at {request.url.path}; {allowed} is"
        return explain(request, HTTPException(error.status_code, detail, error.headers))

    for kind in _TABLE:
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(HTTPException, on_http)  # type: ignore[arg-type]
