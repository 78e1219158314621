"""Members: of an engine whose inputs differ in size from row to row, the engines for one size each."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.sizes import Sizes, Sizing

_MOST = 256  # that are kept for the next rows of their size

M = TypeVar("M")


class Members(Generic[M]):
    """Makes a member when rows of its size first come, and keeps those that were used last. Thread-safe."""

    def __init__(self, sizing: Sizing, make: Callable[[Sizes], M]) -> None:
        self._sizing, self._make = sizing, make
        self._kept: OrderedDict[tuple[int, ...], M] = OrderedDict()
        self._lock = Lock()

    def at(self, sizes: Sizes) -> M:
        """The member for rows of some sizes.

        Raises:
            InvalidInputError: a size is not accepted.
        """
        for dimension in self._sizing.dimensions:
            if sizes[dimension.name] not in dimension:
                raise InvalidInputError(f"{dimension.name} is {sizes[dimension.name]}; {dimension} is accepted")
        key = tuple(sizes[dimension.name] for dimension in self._sizing.dimensions)
        with self._lock:
            member = self._kept.pop(key) if key in self._kept else self._make(sizes)
            self._kept[key] = member  # the last is the one used last
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return member
