"""Admission at the connection: under overload a request is refused before anything is made for it.

No task, no app, one write: most requests are refused then, and what each costs is taken from those that are answered.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.types import Scope

from mcdropout.api.connection import Refusal
from mcdropout.api.errors import Explanation, ProblemError, explanation, problem_content
from mcdropout.api.guard import Guard
from mcdropout.api.hosts import Hosts
from mcdropout.api.observe import Seen, new_request_id, record, request_id_of
from mcdropout.api.query import ask_of, predicted_by
from mcdropout.metrics import Metrics
from mcdropout.predictions import Predictions
from mcdropout.scheduling.backlog import OverloadedError

_log = structlog.get_logger("http")

_ADMITTED = "mcdropout.admitted"  # of a request's scope
_ID = "(the request's id)"


def was_admitted(scope: Scope) -> bool:
    """Whether a request was let in at its connection: then there is no need to ask again before its body is read."""
    return _ADMITTED in scope


@dataclass(frozen=True)
class _Written:
    """What a refused request gets, in parts between which its id goes."""

    error: OverloadedError | None
    status: int
    headers: tuple[bytes, ...]
    body: tuple[bytes, ...]

    @classmethod
    def of(cls, error: OverloadedError) -> "_Written":
        found = explanation(error)
        headers = {"content-type": "application/problem+json", "x-request-id": _ID, **found.headers}
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        body = problem_content(found, _ID)
        return cls(error, found.status, tuple(lines.encode().split(_ID.encode())), tuple(body.split(_ID.encode())))


class Admission:
    """Decides which requests a connection lets in to the app."""

    def __init__(
        self,
        predictions: Predictions,
        metrics: Metrics,
        hosts: Hosts,
        guard: Guard,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            predictions: answers those that are let in, and knows whether there is room.
            metrics: where refused requests are recorded.
            hosts: the names by which clients may call this server.
            guard: knows who asks.
            stopping: whether the app is to answer all, and to end their connections.
        """
        self._predictions, self._metrics, self._stopping = predictions, metrics, stopping
        self.accepts_host = hosts.accept
        self._guard = guard
        self._written = _Written(None, 0, (), ())
        self._coming = 0  # let in since the event loop last came to its tasks

    def refusal(self, scope: Scope) -> Refusal | None:
        """What a request gets that is refused; None where the app is to answer it.

        The app answers all that is no prediction, and what is wrong with one.
        """
        if self._stopping() or (name := predicted_by(scope)) is None:
            return None
        try:
            caller = self._guard.check(scope)
        except ProblemError:  # it is the app's to explain
            return None
        error = self._predictions.overload(self._coming, caller.client)
        if error is None:
            # Many connections are read before the first task gets to the scheduler. It does right after this call
            # comes back, unless its body is still to come: that may take any time, in which it holds no place.
            self._coming += 1
            asyncio.get_running_loop().call_soon(self._came)
            scope[_ADMITTED] = True
            return None
        started, seen = time.perf_counter(), Seen(request_id_of(scope))
        try:
            ask = ask_of(scope, name)
            planned = self._predictions.plan(self._predictions.model(ask), ask, caller.client)
        except Exception:  # it is the app's to explain
            return None
        self._predictions.refused(planned.model.name, error)
        seen.model, seen.mode, seen.key = planned.model.name, planned.mode, caller.key
        return self._refuse(scope, seen, error, started)

    def cut(self) -> None:
        """Count a connection that is cut off."""
        self._metrics.connections_cut.inc()

    def problem(self, status: int, detail: str) -> Refusal:
        """The answer to what is no request that the app could be asked, or to one that did not come in time; counted.

        Args:
            status: its HTTP status code.
            detail: what came, and what is accepted.
        """
        self._metrics.bad_requests.labels(str(status)).inc()
        request_id = new_request_id()
        _log.debug("no request", status=status, detail=detail, request_id=request_id)
        headers = b"content-type: application/problem+json\r\nx-request-id: %b\r\n" % request_id.encode()
        return Refusal(status, headers, problem_content(Explanation(status, detail), request_id))

    def _refuse(self, scope: Scope, seen: Seen, error: OverloadedError, started: float) -> Refusal:
        if self._written.error is not error:  # many are refused for one and the same reason
            self._written = _Written.of(error)
        written, request_id = self._written, seen.request_id
        record(self._metrics, scope, seen, written.status, time.perf_counter() - started, request_id=request_id)
        sent = request_id.encode()
        return Refusal(written.status, sent.join(written.headers), sent.join(written.body))

    def _came(self) -> None:
        self._coming -= 1
