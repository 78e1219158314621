"""Errors, as RFC 9457 problem details (`application/problem+json`)."""

import math
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mcdropout.engine import NonFiniteOutputError
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.plan import FEWEST_PASSES
from mcdropout.scheduling.request import DeadlineError

_log = structlog.get_logger("api")


_PHRASES = {int(status): status.phrase for status in HTTPStatus}


class Problem(BaseModel):
    """Problem details, as RFC 9457 has them."""

    type: str = Field("about:blank", description="What kind of problem this is.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What was received, and what would be accepted.")
    request_id: str | None = Field(None, description="The request's id, as in the logs and in X-Request-ID.")


class ProblemError(Exception):
    """Answer a request with a problem.

    Attributes:
        status: the HTTP status code.
        detail: what was received, and what would be accepted.
        headers: to send along.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem as a response."""
    content = problem_content(status, detail, getattr(request.state, "request_id", None))
    return Response(content, status, headers, "application/problem+json")


def problem_content(status: int, detail: str, request_id: str | None) -> bytes:
    """A `Problem` as JSON."""
    title = _PHRASES.get(status, "Client Closed Request")
    return orjson.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
    )


def overload_details(error: OverloadedError) -> tuple[str, dict[str, str]]:
    """The detail of the problem that a refused request gets, and its headers."""
    wait = {"Retry-After": str(math.ceil(error.retry_after))}
    return f"the server is overloaded: {error}; try again", wait


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> Response:
        return problem(request, error.status, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return problem(request, 422, "; ".join(map(_describe, error.errors())))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"there is nothing at {request.url.path}; /docs lists what there is"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            detail = f"{request.method} is not accepted at {request.url.path}; {allowed} is"
        return problem(request, error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(OverloadedError)
    async def on_overload(request: Request, error: OverloadedError) -> Response:
        return problem(request, 503, *overload_details(error))

    @app.exception_handler(DeadlineError)
    async def on_deadline(request: Request, error: DeadlineError) -> Response:
        return problem(
            request,
            504,
            f"the deadline came before each row had its first passes ({FEWEST_PASSES}, or as many as were asked for); "
            "a later deadline_ms is accepted",
        )

    @app.exception_handler(NonFiniteOutputError)
    async def on_non_finite(request: Request, error: NonFiniteOutputError) -> Response:
        return problem(request, 500, f"{error}; inputs like those that it was trained on are accepted")

    @app.exception_handler(Exception)
    async def on_anything(request: Request, error: Exception) -> Response:
        _log.error("request failed", exc_info=error)
        return problem(request, 500, "the server failed to answer; its log has the cause under this request's id")


def _describe(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"][1:]) or "body"
    if error["type"] == "extra_forbidden":
        return f"unknown query parameter {where!r}; mc, tolerance, deadline_ms, seed and samples are accepted"
    return f"{where} is {error['input']!r}; {error['msg'][0].lower()}{error['msg'][1:]}"
