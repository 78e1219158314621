"""HTTP connections: uvicorn's protocol, which refuses some requests itself and reports when a connection ends."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import httptools
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_READING_SECONDS = 0.01
# What is overridden or called here, of what uvicorn keeps to itself: its versions are pinned to those that have it.
_INTERNALS = (
    "data_received",
    "connection_lost",
    "timeout_keep_alive_handler",
    "on_message_complete",
    "on_response_complete",
    "_start_asgi_task",
    "_unset_keepalive_if_required",
    "_should_upgrade",
    "send_400_response",
)
_OFFERS = {b"upgrade", b"http2-settings"}


class Refusal(NamedTuple):
    """An answer to a request that no app was asked for.

    Attributes:
        status: the HTTP status code.
        headers: each a line with its end.
        body: what they describe.
    """

    status: int
    headers: bytes
    body: bytes


def check_internals(parent: type) -> None:
    """Raise ImportError where uvicorn's protocol lacks something: nothing would be refused, and nobody would know."""
    missing = [name for name in _INTERNALS if not callable(getattr(parent, name, None))]
    if missing:
        raise ImportError(
            f"{parent.__name__} of uvicorn {uvicorn.__version__} has no {', '.join(missing)}; a version that "
            "mcdropout's pyproject.toml names is accepted"
        )


check_internals(HttpToolsProtocol)


def protocol(
    refuse: Callable[[Scope], Refusal | None], ended: Callable[[], None] | None = None
) -> type[asyncio.Protocol]:
    """The class of connections.

    Args:
        refuse: called with each request's scope before a task is made for it: what it gets instead, or None.
        ended: called when a connection has ended.
    """

    class Connection(HttpToolsProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            if ended is not None:
                ended()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self) -> None:
            # A busy event loop calls this before it reads what has arrived meanwhile: a request is not to be lost so.
            close = super().timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(_READING_SECONDS, close)

        def data_received(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            while data:
                try:
                    self.parser.feed_data(data)
                    data = b""
                except httptools.HttpParserError:
                    self.send_400_response("Invalid HTTP request received.")
                    data = b""
                except httptools.HttpParserUpgrade as offer:
                    data = self._without_offer(data[offer.args[0] :]) if self._should_upgrade() else b""

        def _should_upgrade(self) -> bool:
            return bool(self.scope["method"] != "CONNECT")

        def _without_offer(self, rest: bytes) -> bytes:
            """A request that offers another protocol, HTTP/2 in the clear or WebSockets, as one that does not.

            A server may go on in this one, and the client then does too. The parser is done with such a request at its
            head, and takes its body for the other protocol; no app was asked yet. A new parser is to read what this is.
            """
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode()]
            for name, value in self.headers:
                if name == b"connection":
                    value = b",".join(x for x in value.split(b",") if x.strip().lower() not in _OFFERS)
                if name not in _OFFERS:
                    head += (b"\r\n", name, b": ", value)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return b"".join((*head, b"\r\n\r\n", rest))

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            # A client that sends ahead, or does not read, is the app's: that waits until each answer is on its way.
            refusal = None if self.pipeline or self.flow.write_paused else refuse(cycle.scope)
            if refusal is None:
                self._unset_keepalive_if_required()  # by a refusal in the same read
                super()._start_asgi_task(cycle, app)
                return
            # What is left of the request is read and thrown away, as after any answer that did not wait for it.
            cycle.response_started = cycle.response_complete = True
            self._write(refusal, keep_alive=cycle.keep_alive)
            if not cycle.keep_alive:
                self.transport.close()
            self.on_response_complete()

        def _write(self, refusal: Refusal, *, keep_alive: bool) -> None:
            parts = [STATUS_LINE[refusal.status]]
            for name, value in self.server_state.default_headers:
                parts += (name, b": ", value, b"\r\n")
            end = b"" if keep_alive else b"connection: close\r\n"
            parts += (refusal.headers, b"content-length: %d\r\n%b\r\n" % (len(refusal.body), end), refusal.body)
            self.transport.write(b"".join(parts))

        def on_message_complete(self) -> None:
            super().on_message_complete()
            answered = self.cycle is not None and self.cycle.response_complete and not self.pipeline
            if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                # The rest of a request that was answered before it was read has put an end to the wait for the next.
                wait, over = self.timeout_keep_alive, self.timeout_keep_alive_handler
                self.timeout_keep_alive_task = self.loop.call_later(wait, over)

    return Connection
