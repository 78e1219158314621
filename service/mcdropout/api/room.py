"""Room: the memory that the bodies of all requests together may take, until their rows are read."""

from types import TracebackType
from typing import Self

from mcdropout.scheduling.backlog import OverloadedError


class Room:
    """Some memory, of which requests take what they need. For one event loop."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is in bytes."""
        self._capacity = capacity
        self._taken = 0

    def share(self) -> "Share":
        """What one request takes, which is given back at the end."""
        return Share(self)

    def take(self, size: int) -> None:
        """Take so many bytes.

        Raises:
            OverloadedError: there are not so many left.
        """
        if self._taken + size > self._capacity:
            raise OverloadedError(
                f"the bodies of requests on their way take {self._taken} bytes; {self._capacity} are accepted",
                reason="bodies",
            )
        self._taken += size

    def give_back(self, size: int) -> None:
        """Let others have so many bytes."""
        self._taken -= size


class Share:
    """What one request takes of a room, while it is entered."""

    def __init__(self, room: Room) -> None:
        self._room, self._taken = room, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._taken)

    def take(self, size: int) -> None:
        """Take so many bytes more; raises OverloadedError where the room has none left."""
        self._room.take(size)
        self._taken += size
