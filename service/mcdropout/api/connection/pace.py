"""Pace: connections whose clients take longer than they may."""

import asyncio
from typing import Protocol

_LOOK_SECONDS = 0.5


class Paced(Protocol):
    """A connection.

    Attributes:
        due: when its client's time is over, by the event loop's clock; None while the client owes nothing.
        unread: how many bytes it was sent and has not read.
    """

    due: float | None

    @property
    def is_idle(self) -> bool:
        """Whether it has no request under way."""

    @property
    def unread(self) -> int: ...

    def overdue(self) -> None:
        """Its client's time is over."""

    def cut(self, reason: str) -> None:
        """End it at once."""


class Pace:
    """Looks through connections now and then: a timer for each request would cost more than many requests do."""

    def __init__(self, unread_bytes: int) -> None:
        """`unread_bytes` is how much all clients together may leave unread."""
        self._unread_bytes = unread_bytes
        self._connections: dict[Paced, None] = {}  # in the order in which they began
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Paced) -> None:
        """Look at a connection, until it is discarded."""
        self._connections[connection] = None
        if self._looking is None:
            self._wait()

    def discard(self, connection: Paced) -> None:
        """Look at a connection no more."""
        self._connections.pop(connection, None)

    def idle(self) -> Paced | None:
        """One that has no request under way, of those the one that began first; None where there is none."""
        return next((each for each in self._connections if each.is_idle), None)

    def _wait(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        now = asyncio.get_running_loop().time()
        for connection in [each for each in self._connections if each.due is not None and each.due <= now]:
            connection.overdue()
        self._cut_slowest()
        if self._connections:
            self._wait()

    def _cut_slowest(self) -> None:
        unread = {connection: connection.unread for connection in self._connections}
        total = sum(unread.values())
        while total > self._unread_bytes:
            slowest = max(unread, key=lambda each: unread[each])
            total -= unread.pop(slowest)
            slowest.cut(f"clients have left more than {self._unread_bytes} bytes unread, and this one most")
