"""The machine: cores and memory that this process may use, locks between processes, and parents that end."""

import ctypes
import fcntl
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_THREADS = 1024
_CPUS = Path("/sys/devices/system/cpu")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def physical_cores(cpus: Path = _CPUS, quota: Path = _CONTROL_GROUP / "cpu.max") -> int:
    """The physical cores that this process may use: those of its affinity, and no more than its container's share.

    A second thread on a core that computes products gets in the first one's way.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core_of(cpus / f"cpu{number}" / "topology", number) for number in allowed}
    return max(1, min(len(cores), _share(quota)))


def _core_of(topology: Path, number: int) -> tuple[str, str]:
    try:
        return (topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip()
    except OSError:  # not known: each counts
        return "", str(number)


def _share(quota: Path) -> int:
    """The processors that a control group's time is worth, rounded up."""
    try:
        limit, period = quota.read_text().split()
        return MOST_THREADS if limit == "max" else math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        return MOST_THREADS


def free_memory() -> int:
    """The bytes that are free on this machine, or in the control group that this process is in."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        most = (_CONTROL_GROUP / "memory.max").read_text().strip()
        if most != "max":
            free = min(free, int(most) - int((_CONTROL_GROUP / "memory.current").read_text()))
    except (OSError, ValueError, StopIteration):
        pass
    return free


def lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes; False where another has it locked.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock meanwhile.

    Raises:
        OSError: another process holds it, or there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not lock(descriptor):
            raise BlockingIOError(f"{folder} is locked by another process")
        yield
    finally:
        os.close(descriptor)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def signal_or_status(status: int) -> str:
    """How a process ended, in words: "with status 1", or "by SIGKILL"."""
    return f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def descriptors(wanted: int) -> int:
    """How many files this process may have open, so many if they can be had: the system's soft limit is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    most = wanted if hard == unlimited else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return soft
