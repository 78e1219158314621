"""Repeating: a thread that does something now and then."""

import threading
from collections.abc import Callable

import structlog

_log = structlog.get_logger("repeating")


class Repeating:
    """Calls a function again and again, from `start` to `stop`. What that raises is in the log, and it goes on."""

    def __init__(self, name: str, seconds: float, function: Callable[[], object]) -> None:
        """
        Args:
            name: of the thread.
            seconds: before the first call, and between two.
            function: what is called.
        """
        self._name, self._seconds, self._function = name, seconds, function
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, behind a call that is under way."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._function()
            except Exception:  # whatever a file system comes up with, the next time may succeed
                _log.exception("what is repeated failed this time", thread=self._name)
