"""The wire between a supervisor and a worker: what one sends the other, a byte each, connections beside it.

Imports nothing that a model needs: a supervisor is small.
"""

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

from mcdropout.settings import Settings

# What a worker sends: how far it is, and what becomes of the connections that it was handed.
STARTED, LOADED, READY, LEAVING, TAKEN, ENDED = b"s", b"l", b"r", b"x", b"+", b"-"
MODEL = b"m"  # for each model that serves, once, before the first of LOADED and READY
# What it gets: a connection, which comes with the byte, or to close one at its next answer.
CONNECTION, LET_GO = b"c", b"."

_SENT_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Assignment:
    """What a worker is started with.

    Attributes:
        settings: the server's, with this worker's device, and in `workers` how many there are of all devices.
        number: which worker it is, from 1.
        supervisor: the process that it must not outlive.
        metrics: the folder where all keep theirs.
    """

    settings: Settings
    number: int
    supervisor: int
    metrics: Path


class WorkerEnd:
    """A worker's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self._unsent = bytearray()  # since the supervisor did not read: it has to learn of everything, in order

    def send(self, what: bytes) -> None:
        """Send the supervisor something, later if not now."""
        was_waiting = bool(self._unsent)
        self._unsent += what
        if not was_waiting:
            self._send()
            if self._unsent:
                asyncio.get_running_loop().add_writer(self.channel, self._send_rest)

    async def drained(self) -> None:
        """Return once everything has been sent."""
        while self._unsent:
            await asyncio.sleep(_SENT_POLL_SECONDS)

    def _send_rest(self) -> None:
        self._send()
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self.channel)

    def _send(self) -> None:
        try:
            sent = self.channel.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # the supervisor is gone
            sent = len(self._unsent)
        del self._unsent[:sent]

    def next(self) -> tuple[bytes, socket.socket | None] | None:
        """What it says, and the connection that comes with it; None if there is nothing now, b"" at its end."""
        try:
            what, handed, _, _ = socket.recv_fds(self.channel, 1, 1)
        except BlockingIOError:
            return None
        except OSError:
            return b"", None
        if not handed:
            return what, None
        connection = socket.socket(fileno=handed[0])
        connection.set_inheritable(False)
        connection.setblocking(False)
        return what, connection
