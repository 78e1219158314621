"""Patience: limits of time that grow with how slow this machine is, and waiting for events.

A limit is given as what suffices on an idle core of a present machine, in seconds. How many times as long a fixed piece
of work takes now, on this machine and beside whatever else runs on it, is measured by the clock, and limits are
multiplied by that. It is measured at the start of a run, for all of its processes, and again before anybody gives up.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_AT_START = "TESTS_SLOWNESS"
_WORK_SECONDS = 0.04  # what the work takes on an idle core at some 3 GHz
_STALE_SECONDS = 5.0
_CORES = 2  # that the limits are given for: two processes run tests, each with a server beside it


class _Slowness:
    """How many times as long work takes here as on an idle core of a present machine: the last measurement."""

    def __init__(self) -> None:
        self._value = 1.0
        self._at = -_STALE_SECONDS

    def measure(self) -> float:
        began = time.perf_counter()
        sum(number * number % 7 for number in range(400_000))
        x = np.arange(100_000, dtype=np.float64)
        for _ in range(60):
            x = np.sqrt(x * x + 1.0)
        slowness = (time.perf_counter() - began) / _WORK_SECONDS
        self._value = max(1.0, slowness) * max(1.0, _CORES / len(os.sched_getaffinity(0)))
        self._at = time.monotonic()
        return self._value

    def recent(self) -> float:
        """One that is a few seconds old at most, and no less than at the start of the run."""
        if time.monotonic() - self._at > _STALE_SECONDS:
            self.measure()
        return max(self._value, float(os.environ.get(_AT_START, 1.0)))


_slowness = _Slowness()


def measure_for_all() -> None:
    """Measure for this process and for those that it starts from now on."""
    os.environ[_AT_START] = f"{_slowness.measure():.3f}"


def patience(seconds: float) -> float:
    """A limit of time for this machine as it is now, in seconds.

    Args:
        seconds: what suffices on an idle machine of two cores.
    """
    return seconds * _slowness.recent()


class Limit:
    """A limit of time that begins now, and is set anew by how slow the machine is before it is taken for passed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._ends = self._began + patience(seconds)

    @property
    def passed(self) -> bool:
        if time.monotonic() > self._ends:
            self._ends = max(self._ends, self._began + self._seconds * _slowness.measure())
        return time.monotonic() > self._ends

    def __str__(self) -> str:
        return f"in {self._ends - self._began:.1f} s, where {self._seconds:g} s suffice on an idle machine"


def wait_until(
    condition: Callable[[], T], seconds: float = 30.0, said: Callable[[], object] = str, every: float = 0.01
) -> T:
    """Wait until a condition holds, and return what it gave.

    Args:
        condition: asked again and again.
        seconds: what suffices on an idle machine.
        said: what an error should say.
        every: the time between two looks, in seconds.

    Raises:
        AssertionError: it does not hold in time.
    """
    limit = Limit(seconds)
    while not (found := condition()):
        assert not limit.passed, f"not {limit}: {said()}"
        time.sleep(every)
    return found


async def looping_until(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """As `wait_until`, while the event loop goes on."""
    limit = Limit(seconds)
    while not (found := condition()):
        assert not limit.passed, f"not {limit}"
        await asyncio.sleep(0.005)
    return found
