"""Refusals under overload, before anything is made for a request: no task, no app, one write.

Most requests are refused then, and what each costs is taken from those that are answered.
"""

import asyncio
import time
import weakref

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import Scope

from service.api.errors import overload_details, problem_content
from service.api.observe import request_id_of, tell
from service.api.predict import mode_of, model_of
from service.api.shortcut import predicted_by
from service.loading import Model
from service.metrics import Metrics
from service.protocol import Refusal
from service.scheduler import Scheduler

_MOST_MODES = 1024


class Refusals:
    """Tells which requests are refused, and what each is answered."""

    def __init__(self, app: FastAPI) -> None:
        self._state: State = app.state
        self._modes: dict[bytes, tuple[weakref.ref[Model], str]] = {}
        self._coming = 0  # let in since the event loop last came to its tasks

    def of(self, scope: Scope) -> Refusal | None:
        """What a request is told that is refused; None where the app is to answer it.

        The app answers all that is no prediction, and what is wrong with one.
        """
        scheduler: Scheduler | None = getattr(self._state, "scheduler", None)
        if scheduler is None or (name := predicted_by(scope)) is None:
            return None
        error = scheduler.refusal(self._coming)
        if error is None:
            # Many connections are read before the first task gets to the queue. It does right after this call comes
            # back, unless its body is still to come: that may take any time, in which it holds no place.
            self._coming += 1
            asyncio.get_running_loop().call_soon(self._came)
            return None
        started = time.perf_counter()
        try:
            model = model_of(self._state, name)
            mode = self._mode_of(model, scope.get("query_string", b""))
        except Exception:  # it is the app's to explain
            return None
        self._state.switching.refused()
        metrics: Metrics = self._state.metrics
        metrics.of(metrics.refused, model.name, error.reason).inc()
        request_id = request_id_of(scope)
        detail, headers = overload_details(error)
        body = problem_content(503, detail, request_id)
        seen = {"model": model.name, "mode": mode}
        tell(metrics, scope, seen, 503, time.perf_counter() - started, request_id=request_id)
        lines = [b"content-type: application/problem+json\r\nx-request-id: ", request_id.encode(), b"\r\n"]
        for header, value in headers.items():
            lines.append(f"{header.lower()}: {value}\r\n".encode())
        return b"".join(lines), body

    def _mode_of(self, model: Model, query: bytes) -> str:
        """How a request is answered; most clients ask the same way each time."""
        known = self._modes.get(query)
        if known is None or known[0]() is not model:
            if len(self._modes) >= _MOST_MODES:
                self._modes.clear()
            known = self._modes[query] = weakref.ref(model), mode_of(model, query)
        return known[1]

    def _came(self) -> None:
        self._coming -= 1
