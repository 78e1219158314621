"""Files of metrics that several processes share, whose room on the disk is taken before they are written to.

prometheus_client maps files that are sparse. Where the disk is full, the first write to a page of such a file is not an
error but a signal, SIGBUS, that ends the process: all of those that share the disk, one after another.
"""

import os
from typing import Any

import structlog
from prometheus_client import mmap_dict
from prometheus_client import values as value_classes

_log = structlog.get_logger("metrics")

_AROUND = 4 + 16  # bytes of a series, beside its padded name: the length of that, its value and a time
_Value = tuple[float, float]  # and its time


def use_solid_files() -> None:
    """Have prometheus_client keep its values in these files from now on."""
    value_classes.MmapedDict = SolidFile  # type: ignore[attr-defined]


class SolidFile(mmap_dict.MmapedDict):
    """A dict of doubles in a mapped file. Of those that there is no more room for, only this process knows."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        """As its parent does; raises OSError where the disk has no room for an empty file."""
        if not read_mode:
            _take_room(filename)
        self._kept: dict[str, _Value] = {}
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        size = len(key.encode())
        needed = self._used + _AROUND + size + (8 - (size + 4) % 8)
        capacity = self._capacity
        while needed > capacity:
            capacity *= 2
        if capacity > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> _Value:
        """The value of a series and its time; zeros where it is new."""
        if key in self._kept:
            return self._kept[key]
        try:
            found: _Value = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError as error:
            if not self._kept:
                _log.error("no room for more metrics, which this process alone knows", error=str(error))
            return self._kept.setdefault(key, (0.0, 0.0))
        return found

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a series."""
        if key in self._kept:
            self._kept[key] = value, timestamp
        else:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]


def _take_room(filename: str) -> None:
    with open(filename, "a+b") as file:
        size: Any = os.fstat(file.fileno()).st_size
        os.posix_fallocate(file.fileno(), 0, max(size, mmap_dict._INITIAL_MMAP_SIZE))
