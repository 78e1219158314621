"""SIGKILL of one of two workers under load: which requests fail, and how soon there are two again."""

import argparse
import json
import os
import signal
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import CLOSED, Generator, Job, Stream, encode
from benchmarks.load.servers import Server, ours

BACK_WITHIN = 10.0  # seconds
_WORKERS = 2
_CLIENTS = 16
_MC = 50
_BEFORE, _AFTER = 2.0, 3.0  # seconds of load before the signal, and after the worker ought to be back
_READY_WITHIN, _GIVE_UP = 60.0, 60.0  # seconds
_GONE_WITHIN = 5.0  # seconds
# A client may not have seen yet, for so many seconds, that its connection was closed, and ask once more on it.
_SEEN_AFTER = 0.1
_LOST_WITHIN = 1.0  # seconds in which a request that is lost is told so
_ESTABLISHED = "01"


def kill(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A request that the worker had in flight is lost with it: at most one for each connection that it had.

    The process is there for some ms after the signal, and what is sent to it then is lost too: that is told apart. More
    are lost than it had connections where clients that came back were handed to it once more.
    """
    head = ["round", "worker", "connections", "answered", "lost, sent before", "lost, sent after", "failed otherwise"]
    lines = [[*head, "refused", "ready after s", "connections then"]]
    requests = tuple(encode(f"/predict?mc={_MC}", body) for body in one_each(digits(arguments.data_dir, 100)))
    job_seconds = _BEFORE + BACK_WITHIN + _AFTER
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.repeat):
        worker = _WORKERS - number % _WORKERS
        flags = "--workers", str(_WORKERS)
        with ours(folder, *flags, MCDROPOUT_LOG_LEVEL="info", MCDROPOUT_LOG_FORMAT="json") as server:
            _wait_for_ready(server, _WORKERS, _READY_WITHIN)
            generator.start(Job(server.port, (Stream(requests, _CLIENTS),), job_seconds, drain=5.0))
            time.sleep(0.5 + _BEFORE)
            pid = _pid(server, worker)
            held = _connections(server, pid)
            at, signalled = time.time(), time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            gone = _wait_until_gone(pid)
            ready = _wait_for_ready(server, _WORKERS + 1, _GIVE_UP) - at
            time.sleep(1.0)  # for clients to come to it
            share = _connections(server, _pid(server, worker))
            answers = generator.wait().streams[0]
        failed = answers.status != 200
        at_once = (answers.status == CLOSED) & (answers.done >= signalled) & (answers.done <= gone + _LOST_WITHIN)
        before = at_once & (answers.sent < signalled)
        meanwhile = at_once & ~before & (answers.sent <= gone + _SEEN_AFTER)
        figures = {
            "worker": worker,
            "connections": held,
            "answered": int((~failed).sum()),
            "lost_sent_before": int(before.sum()),
            "lost_sent_after": int(meanwhile.sum()),
            "failed_otherwise": int((failed & ~before & ~meanwhile).sum()),
            "refused": answers.refused,
            "ready_seconds": ready,
            "connections_then": share,
        }
        rounds.append(figures)
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in figures.values())
        lines.append([str(number + 1), *cells])
    _print_table(lines)
    slowest = max(figures["ready_seconds"] for figures in rounds)
    goals = {
        "only what the worker had in flight fails, at most one a connection": all(map(_only_in_flight, rounds)),
        f"two workers are ready within {BACK_WITHIN:g} s: at most {slowest:.2f} s": slowest <= BACK_WITHIN,
    }
    for goal, met in goals.items():
        print(f"   {goal}: {'MET' if met else 'not met'}")
    return {"rounds": rounds, "met": all(goals.values())}


def _only_in_flight(figures: dict[str, Any]) -> bool:
    lost: int = figures["lost_sent_before"] + figures["lost_sent_after"]
    return lost <= figures["connections"] and figures["failed_otherwise"] == figures["refused"] == 0


def _told(server: Server, event: str) -> list[dict[str, Any]]:
    """The lines of its log that tell of an event; the last line may not be whole yet."""
    lines = [line for line in server.log.read_text().split("\n")[:-1] if f'"{event}"' in line]
    return [line for line in map(json.loads, lines) if line["event"] == event]


def _wait_for_ready(server: Server, count: int, within: float) -> float:
    """When a worker was ready for the `count`-th time, in `time`'s time; infinity where that takes too long."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ready = _told(server, "worker ready")
        if len(ready) >= count:
            return datetime.fromisoformat(ready[count - 1]["timestamp"]).timestamp()
        time.sleep(0.1)
    return float("inf")


def _pid(server: Server, worker: int) -> int:
    """The process that was last started for a worker."""
    pids = [int(line["pid"]) for line in _told(server, "worker started") if line["worker"] == worker]
    return pids[-1]


def _wait_until_gone(pid: int) -> float:
    """When the supervisor knew of a process's end, which is after its connections were closed."""
    deadline = time.perf_counter() + _GONE_WITHIN
    while Path(f"/proc/{pid}").exists():
        if time.perf_counter() > deadline:
            raise RuntimeError(f"process {pid} was killed, and is there still after {_GONE_WITHIN:g} s")
        time.sleep(0.001)
    return time.perf_counter()


def _connections(server: Server, pid: int) -> int:
    """How many connections of clients a process has."""
    open_files = set()
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                open_files.add(os.readlink(path))
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) == server.port
        for fields in sockets
        if f"socket:[{fields[9]}]" in open_files
    )
