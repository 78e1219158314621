"""HTTP connections: uvicorn's protocol, which answers some requests itself and tells when a connection ends."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_READING_SECONDS = 0.01
_HEAD_END = b"\r\n\r\n"
_MOST_HEADS, _MOST_HEAD_BYTES = 1024, 4096
_FRAMING = {b"transfer-encoding", b"upgrade", b"expect"}  # headers that say how the rest of a request comes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503.

    Attributes:
        headers: each a line with its end.
        body: JSON.
        again: what the next request with the same head is told; None where it is not refused, or has to be read.
    """

    headers: bytes
    body: bytes
    again: "Callable[[], Refusal | None]"


class _Heads:
    """Heads of requests that were refused: the same bytes say the same, and are not read another time.

    Clients that are refused come again, and reading a request takes longer than refusing it.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, Callable[[], Refusal | None]]] = {}

    def refusal(self, data: bytes) -> Refusal | None:
        """What a request is told that is all of `data`; None where it is not known, not refused, or not all of it."""
        size = data.find(_HEAD_END) + len(_HEAD_END)
        known = self._known.get(data[:size])
        return known[1]() if known is not None and len(data) == size + known[0] else None

    def learn(self, data: bytes, scope: Scope, refusal: Refusal) -> None:
        """Know the head of the last request of `data`, which ends with it, if that was all of it by its headers too.

        Neither check does alone. The last of several may be as long as its headers say only where it is not over yet;
        and what is over may have begun before, or behind others.
        """
        size = data.find(_HEAD_END) + len(_HEAD_END)
        headers = dict(scope["headers"])
        told = headers.get(b"content-length") == b"%d" % (len(data) - size)
        if not told or size > _MOST_HEAD_BYTES or not headers.keys().isdisjoint(_FRAMING):
            return
        if len(self._known) >= _MOST_HEADS:
            self._known.clear()
        self._known[data[:size]] = len(data) - size, refusal.again


def protocol(
    refuse: Callable[[Scope], Refusal | None], ended: Callable[[], None] | None = None
) -> type[asyncio.Protocol]:
    """The class of connections.

    Args:
        refuse: called with each request's scope before a task is made for it: what it gets instead, or None.
        ended: called when a connection has ended.
    """
    heads = _Heads()

    class Connection(HttpToolsProtocol):
        _between = True  # nothing of a request has been read that is not all read
        _refused: tuple[Scope, Refusal] | None = None  # the last request, where its connection goes on

        def connection_lost(self, exc: Exception | None) -> None:
            if ended is not None:
                ended()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self) -> None:
            # A busy event loop calls this before it reads what has arrived meanwhile: a request is not to be lost so.
            close = super().timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(_READING_SECONDS, close)

        def data_received(self, data: bytes) -> None:
            alone = self._between and (self.cycle is None or self.cycle.response_complete)
            if alone and not self.flow.write_paused and not self.transport.is_closing():
                refusal = heads.refusal(data)
                if refusal is not None:
                    self._refuse(refusal, keep_alive=True)
                    self.on_response_complete()
                    return
            self._refused = None
            super().data_received(data)
            if alone and self._between and self._refused is not None:
                heads.learn(data, *self._refused)

        def on_message_begin(self) -> None:
            self._between = False
            super().on_message_begin()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            # A client that sends ahead, or does not read, is the app's: that waits until each answer is on its way.
            refusal = None if self.pipeline or self.flow.write_paused else refuse(cycle.scope)
            if refusal is None:
                self._unset_keepalive_if_required()  # by a refusal in the same read
                super()._start_asgi_task(cycle, app)
                return
            # What is left of the request is read and thrown away, as after any answer that did not wait for it.
            cycle.response_started = cycle.response_complete = True
            self._refuse(refusal, keep_alive=cycle.keep_alive)
            if cycle.keep_alive:
                self._refused = cycle.scope, refusal
            else:
                self.transport.close()
            self.on_response_complete()

        def _refuse(self, refusal: Refusal, *, keep_alive: bool) -> None:
            parts = [STATUS_LINE[503]]
            for name, value in self.server_state.default_headers:
                parts += (name, b": ", value, b"\r\n")
            end = b"" if keep_alive else b"connection: close\r\n"
            parts += (refusal.headers, b"content-length: %d\r\n%b\r\n" % (len(refusal.body), end), refusal.body)
            self.transport.write(b"".join(parts))

        def on_message_complete(self) -> None:
            self._between = True
            super().on_message_complete()
            answered = self.cycle is not None and self.cycle.response_complete and not self.pipeline
            if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                # The rest of a request that was answered before it was read has put an end to the wait for the next.
                wait, over = self.timeout_keep_alive, self.timeout_keep_alive_handler
                self.timeout_keep_alive_task = self.loop.call_later(wait, over)

    return Connection
