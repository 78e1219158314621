"""Deadlines: which requests have a time to be answered in, the soonest first."""

import heapq
import itertools
import weakref

from mcdropout.scheduling.request import Request

_FEWEST_LOOKED_THROUGH = 64


class Deadlines:
    """The deadlines of a lane's requests. It keeps none alive: one that has ended is not to be kept for its time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[Request]]] = []
        self._numbers = itertools.count()
        self._most = _FEWEST_LOOKED_THROUGH

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, request: Request) -> None:
        """Take a request in. Those that nobody awaits leave, now and then, whatever time they have."""
        if len(self._heap) >= self._most:
            self._heap = [one for one in self._heap if (left := one[-1]()) is not None and left.awaited]
            heapq.heapify(self._heap)
            self._most = _FEWEST_LOOKED_THROUGH + 2 * len(self._heap)
        heapq.heappush(self._heap, (deadline, next(self._numbers), weakref.ref(request)))

    def pop(self, now: float) -> list[Request]:
        """The awaited requests whose deadline has come, which leave."""
        due: list[Request] = []
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[-1]()
            if request is not None and request.awaited:
                due.append(request)
        return due
