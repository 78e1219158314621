"""Refusals under overload, before anything is made for a request: no task, no app, one write.

Most requests are refused then, and what each costs is taken from those that are answered.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import Scope

from mcdropout.api.connection import Refusal
from mcdropout.api.errors import overload_details, problem_content
from mcdropout.api.observe import new_request_id, offered_id, tell
from mcdropout.api.predict import mode_of, model_of
from mcdropout.api.shortcut import predicted_by
from mcdropout.catalogue.model import Model
from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.scheduler import Scheduler

_ID_HERE = "the request's id"


class _Asked:
    """What a request asks for; it is kept for those that ask the same, so there are no headers in it.

    Attributes:
        line: of its scope, what is told of it when it is answered.
        name: whose prediction.
        request_id: the client's, where it sent a usable one.
    """

    def __init__(self, scope: Scope, name: str) -> None:
        self.line: Scope = {"method": scope["method"], "path": scope["path"]}
        self.name = name
        self.request_id = offered_id(scope)
        self._query: bytes = scope.get("query_string", b"")
        self._model: Callable[[], Model | None] = lambda: None
        self._mode = ""

    def mode_of(self, model: Model) -> str:
        """How it would be answered by a model, which is not kept; raises where it cannot be."""
        if self._model() is not model:
            self._mode = mode_of(model, self._query)
            self._model = weakref.ref(model)
        return self._mode


class Refusals:
    """Tells which requests are refused, and what each is answered."""

    def __init__(self, app: FastAPI, stopping: Callable[[], bool] = lambda: False) -> None:
        """
        Args:
            app: what answers the others.
            stopping: whether it is to answer all, and to end their connections.
        """
        self._state: State = app.state
        self._stopping = stopping
        self._coming = 0  # let in since the event loop last came to its tasks
        self._written: tuple[OverloadedError | None, bytes, list[bytes]] = None, b"", []

    def of(self, scope: Scope) -> Refusal | None:
        """What a request is told that is refused; None where the app is to answer it.

        The app answers all that is no prediction, and what is wrong with one.
        """
        scheduler: Scheduler | None = getattr(self._state, "scheduler", None)
        if scheduler is None or self._stopping() or (name := predicted_by(scope)) is None:
            return None
        error = scheduler.refusal(self._coming)
        if error is None:
            # Many connections are read before the first task gets to the queue. It does right after this call comes
            # back, unless its body is still to come: that may take any time, in which it holds no place.
            self._coming += 1
            asyncio.get_running_loop().call_soon(self._came)
            return None
        return self._told(_Asked(scope, name), error)

    def _again(self, asked: _Asked) -> Refusal | None:
        """What a request is told that asks for what one did that was refused; None where it is to be read."""
        scheduler: Scheduler = self._state.scheduler
        error = None if self._stopping() else scheduler.refusal(self._coming)
        return None if error is None else self._told(asked, error)

    def _told(self, asked: _Asked, error: OverloadedError) -> Refusal | None:
        started = time.perf_counter()
        try:
            model = model_of(self._state, asked.name)
            mode = asked.mode_of(model)
        except Exception:  # it is the app's to explain
            return None
        self._state.switching.refused()
        metrics: Metrics = self._state.metrics
        metrics.of(metrics.refused, model.name, error.reason).inc()
        request_id = asked.request_id or new_request_id()
        seen = {"model": model.name, "mode": mode}
        tell(metrics, asked.line, seen, 503, time.perf_counter() - started, request_id=request_id)
        told = request_id.encode()
        wait, content = self._write(error)
        headers = b"content-type: application/problem+json\r\nx-request-id: %b\r\n%b" % (told, wait)
        return Refusal(headers, told.join(content), partial(self._again, asked))

    def _write(self, error: OverloadedError) -> tuple[bytes, list[bytes]]:
        """The header that tells when to come back, and what is before and behind the request's id in the body.

        Many requests are refused for one and the same reason.
        """
        if self._written[0] is not error:
            detail, headers = overload_details(error)
            content = problem_content(503, detail, _ID_HERE).split(_ID_HERE.encode())
            wait = "".join(f"{header.lower()}: {value}\r\n" for header, value in headers.items()).encode()
            self._written = error, wait, content
        return self._written[1:]

    def _came(self) -> None:
        self._coming -= 1
