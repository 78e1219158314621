"""HTTP connections: uvicorn's protocol, which answers some requests itself and tells when a connection ends."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

Refuse = Callable[[Scope], tuple[list[tuple[bytes, bytes]], bytes] | None]


def protocol(refuse: Refuse, ended: Callable[[], None] | None = None) -> type[asyncio.Protocol]:
    """The class of connections.

    Args:
        refuse: called with each request's scope before a task is made for it: the headers and the body of the 503 that
            it gets instead, or None.
        ended: called when a connection has ended.
    """

    class Connection(HttpToolsProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            if ended is not None:
                ended()
            super().connection_lost(exc)

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            refusal = refuse(cycle.scope)
            if refusal is None:
                super()._start_asgi_task(cycle, app)
                return
            headers, body = refusal
            length = (b"content-length", b"%d" % len(body))
            parts = [STATUS_LINE[503]]
            for name, value in (*self.server_state.default_headers, *headers, length):
                parts += [name, b": ", value, b"\r\n"]
            parts += [b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body]
            # What is left of the request is read and thrown away, as after any answer that did not wait for it.
            cycle.response_started = cycle.response_complete = True
            self.transport.write(b"".join(parts))
            if not cycle.keep_alive:
                self.transport.close()
            self.on_response_complete()

    return Connection
