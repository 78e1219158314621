"""Rates: how many requests a second a key may make."""

import threading

_BURST_SECONDS = 1.0  # for which a key may have saved up


class Rates:
    """A token bucket for each key. Safe from any thread."""

    def __init__(self, processes: int = 1) -> None:
        """`processes` serve, and each allows its part."""
        self._processes = processes
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # how many requests, and when

    def wait(self, name: str, rate: float, now: float) -> float:
        """Take a request of a key; in how many seconds it would be allowed, 0 where it is.

        Args:
            name: the key's.
            rate: how many a second it may make, in all processes.
            now: the time, in seconds.
        """
        each = rate / self._processes
        most = max(1.0, each * _BURST_SECONDS)
        with self._lock:
            left, since = self._left.get(name, (most, now))
            left = min(most, left + (now - since) * each)
            if left < 1.0:
                self._left[name] = left, now
                return (1.0 - left) / each
            self._left[name] = left - 1.0, now
            return 0.0
