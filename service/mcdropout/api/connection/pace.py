"""Pace: connections whose clients take longer than they may."""

import asyncio
from typing import Protocol

_LOOK_SECONDS = 0.5


class Paced(Protocol):
    """A connection.

    Attributes:
        due: when its client's time is over, by the event loop's clock; None while the client owes nothing.
    """

    due: float | None

    def overdue(self) -> None:
        """Its client's time is over."""


class Pace:
    """Looks through connections now and then: a timer for each request would cost more than many requests do."""

    def __init__(self) -> None:
        self._connections: set[Paced] = set()
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Paced) -> None:
        """Look at a connection, until it is discarded."""
        self._connections.add(connection)
        if self._looking is None:
            self._wait()

    def discard(self, connection: Paced) -> None:
        """Look at a connection no more."""
        self._connections.discard(connection)

    def _wait(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        now = asyncio.get_running_loop().time()
        for connection in [each for each in self._connections if each.due is not None and each.due <= now]:
            connection.overdue()
        if self._connections:
            self._wait()
