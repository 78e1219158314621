"""The watchdog: a step of the engine that does not end, because a runtime is stuck, ends the process instead.

Nothing within a process can be done about native code that does not return. Whoever supervises it starts another.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

import structlog

from mcdropout.scheduling.scheduler import Scheduler

STUCK_STATUS = 70
"""The exit status of a process whose engine is stuck (an internal software error, in the words of sysexits.h)."""
_NOTICE_SECONDS = 2.0  # for which `/health/live` says so before the process ends
_log = structlog.get_logger("watchdog")


class Watchdog:
    """Looks after a scheduler from a thread of its own."""

    def __init__(self, scheduler: Scheduler, most_seconds: float, end: Callable[[int], object] = os._exit) -> None:
        """
        Args:
            scheduler: what to look after.
            most_seconds: how long a step may take.
            end: ends the process, with a status.
        """
        self._scheduler, self._most_seconds, self._end = scheduler, most_seconds, end
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @property
    def stuck(self) -> bool:
        """Whether a step has taken longer than it may."""
        started = self._scheduler.step_started
        return started is not None and time.perf_counter() - started > self._most_seconds

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._most_seconds / 4)):
            if self.stuck:
                _log.critical("a step does not end; the process does", seconds=self._most_seconds)
                logging.shutdown()  # what is logged is written
                self._stopped.wait(_NOTICE_SECONDS)
                if self.stuck:
                    self._end(STUCK_STATUS)
                    return
