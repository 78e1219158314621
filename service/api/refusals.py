"""Refusals under overload, before anything is made for a request: no task, no app, one write.

Most requests are refused then, and what each costs is taken from those that are answered.
"""

import asyncio
import time

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import Scope

from service.api.errors import overload_details, problem_content
from service.api.observe import request_id_of, tell
from service.api.predict import mode_of, model_of
from service.api.shortcut import predicted_by
from service.metrics import Metrics
from service.protocol import Refusal
from service.scheduler import Scheduler


class Refusals:
    """Tells which requests are refused, and what each is answered."""

    def __init__(self, app: FastAPI) -> None:
        self._state: State = app.state
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
            mode = mode_of(model, scope.get("query_string", b""))
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
        sent = {"content-type": "application/problem+json", "x-request-id": request_id, **headers}
        return [(header.lower().encode(), value.encode()) for header, value in sent.items()], body

    def _came(self) -> None:
        self._coming -= 1
