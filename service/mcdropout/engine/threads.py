"""Threads: how many this process computes on, and the pool of them for masks and the native runtime.

ONNX Runtime's sessions have as many, each of its own, which sleep between runs (`runtimes/sessions.py`).
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from mcdropout.engine.errors import InvalidInputError
from mcdropout.machine import MOST_THREADS, physical_cores

# Measured under ten times the load that two cores can answer: refusals wait a third less, and more is answered. At 10,
# steps wait for their last part.
_NICE = 3


class _Threads:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count: int | None = None
        self.in_use = False
        self.pool: ThreadPoolExecutor | None = None


_threads = _Threads()


def use_threads(count: int) -> None:
    """Compute on so many threads, instead of one a physical core. Once a process, before anything is computed.

    Raises:
        InvalidInputError: the number cannot be used, or another one is in use already.
    """
    if not 1 <= count <= MOST_THREADS:
        raise InvalidInputError(f"threads is {count}; 1 to {MOST_THREADS} are accepted")
    with _threads.lock:
        if _threads.in_use and count != _threads.count:
            raise InvalidInputError(
                f"threads is {count}, but {_threads.count} are in use; a number is accepted before anything is computed"
            )
        _threads.count = count


def thread_count() -> int:
    """How many threads compute; from now on the number is fixed."""
    with _threads.lock:
        if _threads.count is None:
            _threads.count = physical_cores()
        _threads.in_use = True
        return _threads.count


def _give_way() -> None:
    """Have this thread give way a little to those that answer requests, where there are not cores enough for all."""
    if sys.platform == "linux":  # elsewhere it would be the whole process's priority
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)


def pool() -> ThreadPoolExecutor:
    """The threads that compute in Python's name."""
    count = thread_count()
    with _threads.lock:
        if _threads.pool is None:
            _threads.pool = ThreadPoolExecutor(count, thread_name_prefix="compute", initializer=_give_way)
        return _threads.pool


def at_once(threads: int, count: int, run: Callable[[int, int], None]) -> None:
    """Call `run` with parts of `0 .. count`, in so many threads at most, this one among them."""
    threads = min(threads, count)
    if threads <= 1:
        run(0, count)
        return
    first, *others = itertools.pairwise(count * part // threads for part in range(threads + 1))
    waiting = [pool().submit(run, *part) for part in others]
    try:
        run(*first)
    finally:  # whatever happens, nobody writes into what is shared afterwards
        wait(waiting)
    for future in waiting:
        future.result()
