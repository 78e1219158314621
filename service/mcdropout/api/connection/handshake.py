"""TLS handshakes: a connection is one of HTTP from when its handshake is over, and counts among all of them before."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import structlog

from mcdropout.api.connection.limits import Limits
from mcdropout.api.connection.pace import Pace

_log = structlog.get_logger("http")


def over_tls(
    connection: type[asyncio.Protocol],
    context: Callable[[], ssl.SSLContext],
    pace: Pace,
    limits: Limits,
    cut: Callable[[], None],
    ended: Callable[[], None] | None,
) -> type[asyncio.Protocol]:
    """The class of connections that begin with a handshake.

    Args:
        connection: the class of those that they become.
        context: what a handshake that begins now is made by.
        pace: counts both.
        limits: what a client may take.
        cut: called when one is cut off: its client does not end its handshake, or others want its place.
        ended: called when one has ended before it became another.
    """

    class Secured(connection):  # type: ignore[valid-type, misc]
        handshake: "Handshake"

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            pace.discard(self.handshake)
            super().connection_made(transport)

    class Handshake(asyncio.Protocol):
        """Takes a connection away from the transport that it came by: none knows what TLS it is to do, but new ones."""

        due: float | None = None  # the event loop looks at the time
        unread = 0
        is_idle = True

        def __init__(self, **given: Any) -> None:
            self._given = given

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            try:
                self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            except OSError as error:  # too many files are open
                _log.error("a connection cannot be taken", error=str(error))
                self._end()
                return
            finally:
                cast(asyncio.Transport, transport).abort()  # before it reads
            self._socket.setblocking(False)
            if len(pace) >= limits.connections and (idle := pace.idle()) is not None:
                idle.cut("others want a connection, and this has no request")
                pace.discard(idle)
            pace.add(self)
            self._shaking = asyncio.get_running_loop().create_task(self._shake())
            self._shaking.add_done_callback(self._shaken)

        async def _shake(self) -> None:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._secured,
                self._socket,
                ssl=context(),
                ssl_handshake_timeout=limits.head_seconds,
                ssl_shutdown_timeout=limits.linger_seconds,
            )

        def _secured(self) -> asyncio.Protocol:
            made = Secured(**self._given)
            made.handshake = self
            return made

        def _shaken(self, shaking: "asyncio.Task[None]") -> None:
            pace.discard(self)
            if not shaking.cancelled():
                error = shaking.exception()
                if error is None:
                    return
                _log.debug("TLS handshake failed", error=str(error))
                if isinstance(error, ConnectionAbortedError):  # by the event loop, which has looked at the time
                    cut()
            self._socket.close()
            self._end()

        def _end(self) -> None:
            if ended is not None:
                ended()

        def overdue(self) -> None:
            """Nothing: it is never due."""

        def cut(self, reason: str) -> None:
            """End it at once."""
            _log.debug("connection cut", reason=reason)
            cut()
            self._shaking.cancel()

    return Handshake
