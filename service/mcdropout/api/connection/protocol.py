"""HTTP connections: uvicorn's protocol, which reads no request before it has answered the one before, bounds what a
client may take of the server, refuses some requests itself, and reports when a connection ends."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast
from typing import Protocol as Interface

import httptools
import structlog
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mcdropout.api.connection.handshake import over_tls
from mcdropout.api.connection.limits import Limits
from mcdropout.api.connection.lingering import LingeringTransport
from mcdropout.api.connection.pace import Pace
from mcdropout.api.connection.refusal import Refusal

_log = structlog.get_logger("http")

_READING_SECONDS = 0.01
_PIECE = 4096  # of what has come, in bytes, that the parser is given at once where it is not known what it is
_END_OF_HEAD = b"\r\n\r\n"
_SHOWN = 100  # of what a client sent, in bytes
_MOST_REFUSED = 64  # one behind another, before others have their turn
_PAUSE_SECONDS = 0.001  # before the next request of a client that sends ahead: others, and steps, have their turn
# What is overridden or called here, of what uvicorn keeps to itself: its versions are pinned to those that have it.
_INTERNALS = (
    "connection_made",
    "connection_lost",
    "data_received",
    "pause_writing",
    "resume_writing",
    "timeout_keep_alive_handler",
    "on_message_begin",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "_start_asgi_task",
    "_unset_keepalive_if_required",
    "_should_upgrade",
    "send_400_response",
)
_OFFERS = {b"upgrade", b"http2-settings"}


class Gate(Interface):
    """Decides which requests are let in to the app."""

    def refusal(self, scope: Scope) -> Refusal | None:
        """What a request gets, before a task is made for it; None where the app is to answer it."""

    def cut(self) -> None:
        """A connection is cut off: its client does not read, or does not end its TLS handshake, or others want it and
        nothing is asked on it."""

    def accepts_host(self, host: bytes) -> bool:
        """Whether a field Host names this server."""

    def problem(self, status: int, detail: str) -> Refusal:
        """The answer to what is no request that the app could be asked, or one that did not come in time."""


def check_internals(parent: type) -> None:
    """Raise ImportError where uvicorn's protocol lacks something: nothing would be refused, and nobody would know."""
    missing = [name for name in _INTERNALS if not callable(getattr(parent, name, None))]
    if missing:
        raise ImportError(
            f"{parent.__name__} of uvicorn {uvicorn.__version__} has no {', '.join(missing)}; a version that "
            "mcdropout's pyproject.toml names is accepted"
        )


check_internals(HttpToolsProtocol)


class _Flow(FlowControl):
    """Reading and writing, paused and gone on with. While something is held, reading is paused, whoever wants more."""

    held = False

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def release(self) -> None:
        if self.held:
            self.held = False
            self.resume_reading()

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


def protocol(
    gate: Gate,
    ended: Callable[[], None] | None = None,
    limits: Limits = Limits(),  # noqa: B008  (it never changes)
    context: Callable[[], ssl.SSLContext] | None = None,
) -> type[asyncio.Protocol]:
    """The class of connections.

    Args:
        gate: decides who is let in.
        ended: called when a connection has ended.
        limits: what a client may take.
        context: what a TLS handshake that begins now is made by; None where there is no TLS.
    """
    pace = Pace(limits.unread_bytes)

    class Connection(HttpToolsProtocol):
        transport: LingeringTransport  # type: ignore[assignment]
        flow: _Flow

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            lingering = LingeringTransport(cast(asyncio.Transport, transport), self._is_sending, limits.linger_seconds)
            super().connection_made(lingering)  # type: ignore[arg-type]
            self.flow = _Flow(lingering)  # type: ignore[arg-type]
            self._held, self._at = b"", 0  # what has come and was not read yet, from where on
            self._feeding = False
            self._in_head = self._in_body = False
            self._head_bytes = self._fields = 0
            self._hosts: list[bytes] = []
            self._left: int | None = None  # of the body, where its length is told
            self.due: float | None = self.loop.time() + limits.head_seconds
            if len(pace) >= limits.connections:
                self._make_room()
            pace.add(self)

        def _make_room(self) -> None:
            """End a connection that nothing is asked on; where there is none, it is this one that is one too many."""
            idle = pace.idle()
            if idle is not None:
                idle.cut("others want a connection, and this has no request")
                pace.discard(idle)
            else:
                self._refuse(503, f"{limits.connections} connections are open, the most that are accepted; try again")

        @property
        def is_idle(self) -> bool:
            """Whether it has no request under way."""
            answered = self.cycle is None or self.cycle.response_complete
            return answered and not self._held and not self._in_body and not self.transport.is_closing()

        def connection_lost(self, exc: Exception | None) -> None:
            pace.discard(self)
            self._held, self._at = b"", 0
            if ended is not None:
                ended()
            super().connection_lost(exc)

        def overdue(self) -> None:
            """The client's time is over."""
            self.due = None
            if self.flow.write_paused:
                self.cut(f"the client read nothing for {limits.write_seconds:g} s")
            elif self._in_head:
                self._refuse(408, f"the head was not there within {limits.head_seconds:g} s")
            elif self._in_body and not self.cycle.response_started:
                self._refuse(408, f"the body was not there within {limits.body_seconds:g} s")
            else:
                self.transport.close()

        def cut(self, reason: str) -> None:
            """End it at once."""
            _log.debug("connection cut", reason=reason)
            gate.cut()
            self.transport.abort()

        @property
        def unread(self) -> int:
            """How many bytes its client was sent and has not read."""
            return self.transport.get_write_buffer_size() if self.flow.write_paused else 0

        def pause_writing(self) -> None:
            super().pause_writing()
            self.due = self.loop.time() + limits.write_seconds

        def resume_writing(self) -> None:
            super().resume_writing()
            self.due = self.loop.time() + limits.body_seconds if self._in_body else None

        def timeout_keep_alive_handler(self) -> None:
            # A busy event loop calls this before it reads what has arrived meanwhile: a request is not to be lost so.
            close = super().timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(_READING_SECONDS, close)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._unset_keepalive_if_required()
            self._held, self._at = (self._held[self._at :] + data if self._held else data), 0
            self._feed()

        def _feed(self) -> None:
            """Read what has come, up to the end of a request, unless an answer is owed."""
            if self._feeding:
                return
            self._feeding = True
            answered, refused = self.server_state.total_requests, 0
            while self._held and not self._owes_answer() and not self.transport.is_closing():
                refused = self.server_state.total_requests - answered
                if refused >= _MOST_REFUSED:
                    self.loop.call_soon(self._feed)
                    break
                self._read(self._next_piece())
            self._feeding = False
            if self.transport.is_closing():
                self._held, self._at = b"", 0
            elif self._held:
                self._unset_keepalive_if_required()
                self.flow.hold()
            else:
                self.flow.release()

        def _owes_answer(self) -> bool:
            cycle = self.cycle
            return cycle is not None and not cycle.more_body and not cycle.response_complete

        def _next_piece(self) -> bytes:
            """What the parser is to read next, of what is held."""
            start = self._at
            if self._in_body:
                end = start + (_PIECE if self._left is None else max(1, self._left))
            else:
                found = self._held.find(_END_OF_HEAD, start, start + limits.head_bytes)
                end = start + _PIECE if found < 0 else found + len(_END_OF_HEAD)
            piece = self._held[start:end]
            self._at = end
            if end >= len(self._held):
                self._held, self._at = b"", 0
            return piece

        def _read(self, piece: bytes) -> None:
            if not self._in_body:
                self._head_bytes += len(piece)
                if self._head_bytes > limits.head_bytes:
                    self._refuse(431, f"the head is larger than {limits.head_bytes} bytes, the most that is accepted")
                    return
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError:
                if not self.transport.is_closing():
                    self.send_400_response("this is no HTTP/1.1 request; one as RFC 9112 has it is accepted")
            except httptools.HttpParserUpgrade as offer:
                if self.transport.is_closing():
                    return
                if not self._should_upgrade():
                    self.send_400_response("CONNECT is not accepted: this is no proxy")
                    return
                rest = self._without_offer(piece[offer.args[0] :])
                self._held, self._at = rest + self._held[self._at :], 0
                self._head_bytes = 0

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
            self._in_body = False
            return b"".join((*head, b"\r\n\r\n", rest))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._in_body = True, False
            self._fields, self._hosts = 0, []
            self._left = None
            self.due = self.loop.time() + limits.head_seconds

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._in_head:  # a field behind the body, which nobody waits for
                return
            self._fields += 1
            if self._fields > limits.head_fields:
                return
            super().on_header(name, value)
            name = name.lower()
            if name == b"host":
                self._hosts.append(value)
            elif name == b"content-length" and value.isdigit():
                self._left = int(value)

        def on_headers_complete(self) -> None:
            self._in_head, self._in_body = False, True
            self._head_bytes = 0
            self.due = self.loop.time() + limits.body_seconds
            if self._fields > limits.head_fields:
                self._refuse(431, f"the head has more than {limits.head_fields} fields, the most that are accepted")
            elif len(self._hosts) != 1 and self.parser.get_http_version() == "1.1":
                self._refuse(400, f"the head has {len(self._hosts)} fields Host; one is accepted")
            elif self._hosts and not gate.accepts_host(self._hosts[0]):
                named = self._hosts[0][:_SHOWN].decode("latin-1")
                self._refuse(421, f"the host is {named!r}; those that MCDROPOUT_ALLOWED_HOSTS lists are accepted")
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._left is not None:
                self._left -= len(body)
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_body = False
            if not self.flow.write_paused:
                self.due = None
            if self.transport.is_closing():
                return
            super().on_message_complete()
            answered = self.cycle is not None and self.cycle.response_complete and not self.pipeline
            if answered and self.timeout_keep_alive_task is None:
                # The rest of a request that was answered before it was read has put an end to the wait for the next.
                wait, over = self.timeout_keep_alive, self.timeout_keep_alive_handler
                self.timeout_keep_alive_task = self.loop.call_later(wait, over)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._held and not self._feeding:  # what came meanwhile
                self.loop.call_later(_PAUSE_SECONDS, self._feed)
            else:
                self._feed()

        def _is_sending(self) -> bool:
            """Whether the client may be sending still."""
            if self.cycle is None and not self._in_body:  # nothing was read yet, or no more than a part of a head
                return True
            left = 0 if not self._in_body else self._left
            return self._in_head or left is None or len(self._held) - self._at != left

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            # A client that sends ahead, or does not read, is the app's: that waits until each answer is on its way.
            refusal = None if self.pipeline or self.flow.write_paused else gate.refusal(cycle.scope)
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

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg)

        def _refuse(self, status: int, detail: str) -> None:
            """Answer what is no request for the app, or none any more, and end the connection."""
            self.due = None
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:  # whose app waits for more of it
                cycle.disconnected = True
                cycle.message_event.set()
                if cycle.response_started:
                    self.transport.close()
                    return
            self._write(gate.problem(status, detail), keep_alive=False)
            self.transport.close()

        def _write(self, refusal: Refusal, *, keep_alive: bool) -> None:
            parts = [STATUS_LINE[refusal.status]]
            for name, value in self.server_state.default_headers:
                parts += (name, b": ", value, b"\r\n")
            end = b"" if keep_alive else b"connection: close\r\n"
            parts += (refusal.headers, b"content-length: %d\r\n%b\r\n" % (len(refusal.body), end), refusal.body)
            self.transport.write(b"".join(parts))

    return Connection if context is None else over_tls(Connection, context, pace, limits, gate.cut, ended)
