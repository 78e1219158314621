"""Clients: who asks, and in which order those are served who wait. Nobody waits for more than a share of others."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True)
class Client:
    """Who asks.

    Attributes:
        name: what it is known by: its key's name, or its address.
        share: how much of the machine it gets where others want it too, as a multiple of what they get.
    """

    name: str = ""
    share: float = 1.0


ANYBODY = Client()
_MOST_CLIENTS = 4096  # that are remembered though they have had no more than others


class Waits(Protocol):
    """What waits for its turn."""

    @property
    def client(self) -> Client:
        """Whose it is."""

    @property
    def cost(self) -> float:
        """How much it takes of what is shared, such as pairs."""


_Waits = TypeVar("_Waits", bound=Waits)


class FairQueue(Generic[_Waits]):
    """What waits, each client's in the order in which it came, and the clients in turn, by what they have had.

    Start-time fair queuing (Goyal, Vin & Cheng 1996): each is due at a virtual time, when what its client asked for
    before would be done if each client got its share; the one that was due first is next.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, _Waits]] = []
        self._numbers = count()
        self._now = 0.0
        self._done: dict[str, float] = {}  # when, of each client, all that it asked for will be; while any waits

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[_Waits]:
        """All, in no order."""
        return (one for *_, one in self._waiting)

    def append(self, one: _Waits) -> None:
        """Let one wait."""
        client = one.client
        if len(self._done) > _MOST_CLIENTS:
            self._done = {name: done for name, done in self._done.items() if done > self._now}
        start = max(self._now, self._done.get(client.name, 0.0))
        self._done[client.name] = start + one.cost / client.share
        heapq.heappush(self._waiting, (start, next(self._numbers), one))

    @property
    def first(self) -> _Waits:
        """Whose turn it is."""
        return self._waiting[0][-1]

    def popleft(self) -> _Waits:
        """Let it leave."""
        self._now, _, one = heapq.heappop(self._waiting)
        if not self._waiting:
            self._done.clear()
        return one

    def clear(self) -> None:
        """Let all leave."""
        self._waiting.clear()
        self._done.clear()
