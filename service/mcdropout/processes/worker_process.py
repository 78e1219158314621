"""A worker as its supervisor sees it: the process, and what is known of how far it is."""

import pickle
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress

from mcdropout.processes.wire import LOADED, READY, STARTED, Assignment

_RANKS = {READY: 0, LOADED: 1, STARTED: 2}
_MOST_UNTAKEN = 64  # of one worker; further ones wait in the kernel's queue
_LATE_SECONDS = 1.0  # to take a connection; one that has not gets others only where all are late


class WorkerProcess:
    """A worker's place: the process that fills it, and what is known of that."""

    def __init__(self, number: int, device: str) -> None:
        self.number = number
        self.device = device
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.stage: bytes | None = None  # None: not there, or leaving
        self.models = 0  # that it serves, as it said once it had loaded them
        self.connections = 0
        self.untaken: deque[tuple[float, socket.socket]] = deque()  # when each was handed over, and what
        self.handed = 0.0  # when one was, last
        self.begun = 0.0
        self.failures = 0  # in a row
        self.due: float | None = None  # when it is to be started again

    def rank(self, now: float) -> tuple[int, bool, int, float]:
        """Smallest for the one to hand the next connection to."""
        late = bool(self.untaken) and now - self.untaken[0][0] > _LATE_SECONDS
        return _RANKS[self.stage or STARTED], late, self.connections, self.handed

    @property
    def takes(self) -> bool:
        return self.stage is not None and len(self.untaken) < _MOST_UNTAKEN

    def send(self, what: bytes, connection: socket.socket | None = None) -> bool:
        """Send it something; whether that could be done."""
        if self.channel is None:
            return False
        try:
            if connection is None:
                return self.channel.send(what) == len(what)
            return socket.send_fds(self.channel, [what], [connection.fileno()]) == len(what)
        except OSError:
            return False


def launch(assignment: Assignment) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a worker's process; with it, our end of a channel to it. Raises OSError where that cannot be done."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "mcdropout.processes.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that a terminal's Ctrl-C comes from the supervisor, and once
            )
        except OSError:
            ours.close()
            raise
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin as pipe:
            pickle.dump(assignment, pipe)
    return process, ours
