"""Threads: how many this process computes on, and the pool of them for masks and the native runtime.

ONNX Runtime's sessions have as many, each of its own, which sleep between runs (`runtimes/sessions.py`).
"""

import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mcdropout.engine.errors import InvalidInputError

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MOST = 1024
# Measured under ten times the load that two cores can answer: refusals wait a third less, and more is answered. At 10,
# steps wait for their last part.
_NICE = 3


def physical_cores(cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """The physical cores that this process may use: those of its affinity, and no more than its container's share.

    A second thread on a core that computes products gets in the first one's way.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core_of(cpus / f"cpu{number}" / "topology", number) for number in allowed}
    return max(1, min(len(cores), _share(quota)))


def _core_of(topology: Path, number: int) -> tuple[str, str]:
    try:
        return (topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip()
    except OSError:  # not told: each counts
        return "", str(number)


def _share(quota: Path) -> int:
    """The processors that a control group's time is worth, rounded up."""
    try:
        limit, period = quota.read_text().split()
        return _MOST if limit == "max" else math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        return _MOST


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
    if not 1 <= count <= _MOST:
        raise InvalidInputError(f"threads is {count}; 1 to {_MOST} are accepted")
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
