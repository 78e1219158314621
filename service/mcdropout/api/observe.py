"""Around every request: an id, a log line, and the metrics of predictions."""

import asyncio
import itertools
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdropout.api.headers import header_of
from mcdropout.log import OfRequest
from mcdropout.metrics import Metrics
from mcdropout.scheduling.answer import Answer, Shares, StepTime

_log, _logger = structlog.get_logger("http"), logging.getLogger("http")
_ID_NAME = b"x-request-id"
_GOOD_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
# Of requests that come without one: drawn once, and counted.
_PROCESS, _NUMBERS = secrets.token_hex(8), itertools.count(1)
_CLIENT_WENT_AWAY = 499
QUIET_PATHS = ("/health/", "/v2/health/", "/metrics", "/inference.GRPCInferenceService/Server")
"""How the paths begin by which it is asked how the server is."""
SHOWN = 500
"""How many characters of a path are told."""

_PREDICTIONS = ("/predict", "/predict/stream", "/infer", "/ModelInfer")  # how their paths end


_SEEN = "mcdropout.seen"  # of a request's scope


class Timeline(NamedTuple):
    """When a request was computed, by `time.perf_counter()`.

    Attributes:
        submitted: when its rows were handed to the scheduler.
        started: when its first step began.
        ended: when its last step ended.
        steps: its first steps.
    """

    submitted: float
    started: float
    ended: float
    steps: tuple[StepTime, ...]

    @classmethod
    def of(cls, submitted: float, answer: Answer | Shares) -> "Timeline":
        """That of an answer to what was handed over then."""
        started = submitted + answer.queue_seconds
        return cls(submitted, started, started + answer.compute_seconds, answer.steps)


@dataclass(slots=True)
class Seen:
    """What is seen of a request on its way, for the log and the metrics; None is not known yet, or at all.

    Attributes:
        request_id: the client's where it sent a usable one.
        model: whose prediction it asks for.
        mode: how that is answered: "deterministic", "mc" or "auto".
        rows: how many it has.
        key: the name of the key that it showed.
        seed: what its masks were drawn from.
        passes: how many each row was planned to get.
        p: what its sites dropped with in place of their own, where it asked for that.
        trace_id: of the trace that it is part of, where it is traced.
        timeline: when it was computed, where it is traced.
    """

    request_id: str
    model: str | None = None
    mode: str | None = None
    rows: int | None = None
    key: str | None = None
    seed: int | None = None
    passes: int | None = None
    p: float | None = None
    trace_id: str | None = None
    timeline: Timeline | None = None

    @property
    def is_traced(self) -> bool:
        """Whether it is part of a trace."""
        return self.trace_id is not None


def seen_of(scope: Scope) -> Seen | None:
    """What is seen of a request so far; None for one that was not observed."""
    found: Seen | None = scope.get(_SEEN)
    return found


class ObserveMiddleware:
    """Gives a request its id (the client's where it sent a usable one), and records it when it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(scope)
        seen = scope[_SEEN] = Seen(request_id)
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_ID_NAME, request_id.encode())]
            await send(message)

        with OfRequest(request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # by a server that does not wait for the app to hear of it, such as Ray's
                status = _CLIENT_WENT_AWAY
                raise
            finally:
                record(self._metrics, scope, seen, status, time.perf_counter() - started)


def request_id_of(scope: Scope) -> str:
    """The client's id of a request, where it sent a usable one, else a new one."""
    offered = header_of(scope, _ID_NAME)
    return offered if offered and _GOOD_ID.fullmatch(offered) else new_request_id()


def new_request_id() -> str:
    """One that no other request has."""
    return f"{_PROCESS}-{next(_NUMBERS):x}"


def record(metrics: Metrics, scope: Scope, seen: Seen, status: int, seconds: float, **more: Any) -> None:
    """Record a request that was answered: in the log, and a prediction in the metrics too."""
    path: str = scope["path"]
    if scope["method"] == "POST" and path.endswith(_PREDICTIONS):
        labels = (seen.model or "unknown", seen.mode or "unknown", str(status))
        metrics.of(metrics.requests, *labels).inc()
        metrics.of(metrics.request_duration, *labels).observe(seconds)
    level = logging.DEBUG if path.startswith(QUIET_PATHS) else logging.INFO
    if not _logger.isEnabledFor(level):  # which would be found out later, at many times the cost
        return
    write = _log.debug if level == logging.DEBUG else _log.info
    client = scope.get("client")
    known = {
        "model": seen.model,
        "mode": seen.mode,
        "rows": seen.rows,
        "passes": seen.passes,
        "seed": seen.seed,
        "p": seen.p,
        "client": client[0] if client else None,
        "key": seen.key,
        "trace_id": seen.trace_id,
    }
    more = {name: value for name, value in known.items() if value is not None} | more
    write("request", method=scope["method"], path=path[:SHOWN], status=status, seconds=round(seconds, 6), **more)
