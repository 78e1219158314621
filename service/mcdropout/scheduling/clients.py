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

Ticket = tuple[float, int]
"""A place in an order of turns, the lowest first: when it is due, and how many were drawn before."""


class FairClock:
    """The virtual time by which clients take turns: each is due when what it has had would be done, at its share.

    Start-time fair queuing (Goyal, Vin & Cheng 1996).
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._done: dict[str, float] = {}  # when, of each client, all that it got or asked for will be

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one client."""
        return len(self._done) > 1

    def meet(self, client: Client) -> None:
        """A client comes, that may get something later."""
        self._done.setdefault(client.name, self._now)

    def due(self, client: Client) -> float:
        """When a client is due that asks anew: what it had not asked for before now is no credit."""
        return max(self._now, self._done.get(client.name, 0.0))

    def resumes(self, client: Client) -> float:
        """When a client is due that goes on with what it was given some of."""
        return self._done.get(client.name, self._now)

    def spend(self, client: Client, cost: float) -> None:
        """A client gets so much, or asked for it."""
        if len(self._done) > _MOST_CLIENTS:
            self._done = {name: done for name, done in self._done.items() if done > self._now}
        self._done[client.name] = self.due(client) + cost / client.share

    def reached(self, due: float) -> None:
        """It is the turn of who was due then."""
        self._now = max(self._now, due)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._done.clear()


class FairQueue(Generic[_Waits]):
    """What waits, each client's in the order in which it came, and the clients in turn, by what they have had."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, _Waits]] = []
        self._numbers = count()
        self._clock = FairClock()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[_Waits]:
        """All, in no order."""
        return (one for *_, one in self._waiting)

    def append(self, one: _Waits) -> None:
        """Let one wait."""
        heapq.heappush(self._waiting, (self._clock.due(one.client), next(self._numbers), one))
        self._clock.spend(one.client, one.cost)

    @property
    def first(self) -> _Waits:
        """Whose turn it is."""
        return self._waiting[0][-1]

    def popleft(self) -> _Waits:
        """Let it leave."""
        due, _, one = heapq.heappop(self._waiting)
        self._clock.reached(due)
        if not self._waiting:
            self._clock.forget()
        return one

    def clear(self) -> None:
        """Let all leave."""
        self._waiting.clear()
        self._clock.forget()
