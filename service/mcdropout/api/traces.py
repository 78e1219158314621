"""Traces: what became of a request when, for OpenTelemetry. The request, its time in the queue, and its steps.

A request that comes with a trace context (W3C, `traceparent`; over gRPC as metadata) is part of that trace.
OpenTelemetry's own variables say where spans go (`OTEL_EXPORTER_OTLP_ENDPOINT`), how many (`OTEL_TRACES_SAMPLER`), and
what the service is called (`OTEL_SERVICE_NAME`). Its packages are an extra, and imported where requests are traced.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdropout.api.observe import QUIET_PATHS, SHOWN, Seen, Timeline, seen_of
from mcdropout.engine import InvalidInputError
from mcdropout.settings import Settings

_NAME = "mcdropout"
_MODELS = ("/models/", "/v2/models/")
_OF_A_MODEL = ("predict", "predict/stream", "load", "unload", "reload", "infer", "ready")
_PATHS = ("/predict", "/predict/stream", "/models", "/v2", "/docs", "/openapi.json")
_ERROR = 500


class Traced:
    """How a request that is traced has ended.

    Attributes:
        values: attributes of its span.
        has_failed: whether that is the server's fault.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.has_failed = False

    def ends(self, name: str, status: int, *, has_failed: bool) -> None:
        """It ends with a status, which is an attribute by this name."""
        self.values[name], self.has_failed = status, has_failed


class Traces:
    """Makes spans of requests, and sends them on."""

    def __init__(self) -> None:
        """Imports OpenTelemetry."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": _NAME}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_NAME)
        self._propagator = TraceContextTextMapPropagator()
        self._epoch = time.time_ns() - time.perf_counter_ns()

    @classmethod
    def of(cls, settings: Settings) -> "Traces | None":
        """Those of a server; None where it makes none.

        Raises:
            InvalidInputError: it is to, and OpenTelemetry is not installed.
        """
        if not settings.traces:
            return None
        try:
            found = find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise InvalidInputError(
                "traces is true, and OpenTelemetry's exporter is not installed; what pip install 'mcdropout[otel]' "
                "brings, or false, is accepted"
            )
        return cls()

    def stop(self) -> None:
        """Send what there is, and end."""
        self._provider.shutdown()

    @contextmanager
    def span(self, scope: Scope, seen: Seen, name: str, values: dict[str, Any]) -> Iterator["Traced"]:
        """Have a request traced, by a span that begins now, and in the end has those of its queue and its steps.

        Args:
            scope: the request.
            seen: what is seen of it; it gets the trace's id.
            name: of the span.
            values: its attributes from the first.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        names = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        context = self._propagator.extract(dict(names))
        span = self._tracer.start_span(name, context, SpanKind.SERVER, values)
        if span.is_recording():
            seen.trace_id = format(span.get_span_context().trace_id, "032x")
        traced = Traced()
        try:
            yield traced
        finally:
            span.set_attributes(_attributes(scope, seen) | traced.values)
            if traced.has_failed:
                span.set_status(Status(StatusCode.ERROR))
            if seen.timeline is not None:
                self._compute(seen.timeline, set_span_in_context(span))
            span.end()

    def _compute(self, timeline: Timeline, context: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        queue = self._tracer.start_span("queue", context, start_time=self._at(timeline.submitted))
        queue.end(self._at(timeline.started))
        compute = self._tracer.start_span("compute", context, start_time=self._at(timeline.started))
        within = set_span_in_context(compute)
        for step in timeline.steps:
            values: dict[str, Any] = {"mcdropout.step.rows": step.rows, "mcdropout.step.pairs": step.pairs}
            values |= {f"mcdropout.step.{stage}_seconds": seconds for stage, seconds in step.seconds.items()}
            one = self._tracer.start_span("step", within, attributes=values, start_time=self._at(step.started))
            one.end(self._at(step.ended))
        compute.end(self._at(timeline.ended))

    def _at(self, moment: float) -> int:
        """A time of `time.perf_counter()` in nanoseconds since the epoch."""
        return self._epoch + round(moment * 1e9)


class TraceMiddleware:
    """Traces requests, but for those that ask how the server is."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app, self._traces = app, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = seen_of(scope)
        if scope["type"] != "http" or seen is None or scope["path"].startswith(QUIET_PATHS):
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        values = {"http.request.method": method, "url.path": path[:SHOWN]}
        with self._traces.span(scope, seen, f"{method} {_route_of(path)}", values) as traced:
            traced.ends("http.response.status_code", _ERROR, has_failed=True)

            async def send_noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    traced.ends("http.response.status_code", status, has_failed=status >= _ERROR)
                await send(message)

            await self._app(scope, receive, send_noting)


def _attributes(scope: Scope, seen: Seen) -> dict[str, Any]:
    client = scope.get("client")
    values = {
        "client.address": client[0] if client else None,
        "mcdropout.request_id": seen.request_id,
        "mcdropout.model": seen.model,
        "mcdropout.mode": seen.mode,
        "mcdropout.rows": seen.rows,
        "mcdropout.passes": seen.passes,
        "mcdropout.seed": None if seen.seed is None else str(seen.seed),
        "mcdropout.key": seen.key,
    }
    return {name: value for name, value in values.items() if value is not None}


def _route_of(path: str) -> str:
    """A path without the names in it, of which there may be any number; "/" for one that there is not."""
    for prefix in _MODELS:
        if path.startswith(prefix):
            _, slash, rest = path[len(prefix) :].partition("/")
            return f"{prefix}{{name}}{slash}{rest if rest in _OF_A_MODEL else ''}"
    return path if path in _PATHS else "/"
