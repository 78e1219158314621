"""Lingering: a connection is read on for a while after its last answer, so that the client gets that answer.

A socket that is closed while there is something to read resets the connection, and what is on its way is lost with it
(RFC 9112, 9.6).
"""

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport:
    """A transport whose `close` waits, where its client may still be sending, until that has closed its end too."""

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool], seconds: float) -> None:
        """
        Args:
            transport: the one that it stands for.
            is_sending: whether the client may still be sending.
            seconds: how long it waits at most.
        """
        self._transport, self._is_sending, self._seconds = transport, is_sending, seconds
        self.lingers = False
        self.write, self.get_extra_info = transport.write, transport.get_extra_info
        self.abort, self.get_write_buffer_size = transport.abort, transport.get_write_buffer_size

    def is_closing(self) -> bool:
        """Whether it is closed, or is to be."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Write what there is to write, and end the connection."""
        if self.lingers:
            return
        if self._transport.is_closing() or not self._is_sending() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(self._seconds, self._transport.close)

    def pause_reading(self) -> None:
        """Take no more from the client, unless that is thrown away."""
        if not self.lingers:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the client."""
        if not self.is_closing():
            self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
