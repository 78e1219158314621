"""Ten times as many requests as the server can answer, and before and after that few."""

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import CLOSED, Answers, Generator, Job, Run, Stream, encode
from benchmarks.load.servers import Server, ours

TIMES_CAPACITY = 10
REFUSED_WITHIN, RECOVERED_WITHIN, RECOVERED_TIMES = 0.05, 5, 2  # seconds, seconds, times the p99 before
MOST_GROWTH = 1.05
_CALM, _AFTER = 10, 15  # seconds
_PROBES = 40.0  # a second
_PROBE_MC = 50
_QUEUE_SECONDS = 0.5
_CONNECTIONS = 1000
_DIGITS = 200
_REQUESTS = 20_000  # with an id each, as proxies give them: no two heads are the same for seconds


def overload(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The queue holds half a second's worth of rows, and is told that time too, since the rate falls meanwhile.

    A few requests of fewer passes go along all the time.
    """
    model, _, mc = arguments.overload.partition(":")
    bodies = one_each(digits(arguments.data_dir, _DIGITS))
    path = f"/models/{model}/predict?mc={mc}"
    requests = tuple(encode(path, bodies[n % len(bodies)], request_id=f"{n:x}") for n in range(_REQUESTS))
    probes = tuple(encode(f"/models/{model}/predict?mc={_PROBE_MC}", body) for body in bodies)
    with ours(folder) as server:
        run = generator.run(Job(server.port, (Stream(requests, 64),), 2 * arguments.seconds))
        capacity = run.streams[0].answered(run.begin, run.end).sum() / (run.end - run.begin)
    rows = max(8, round(_QUEUE_SECONDS * capacity))
    length = arguments.overload_seconds
    streams = (
        Stream(probes, 64, rate=_PROBES),
        Stream(requests, _CONNECTIONS, rate=TIMES_CAPACITY * capacity, begin=_CALM, end=_CALM + length),
    )
    print(
        f"   {model}, mc={mc}: capacity {capacity:.0f}/s; {TIMES_CAPACITY * capacity:.0f}/s for {length:g} s, a queue"
        f" of {rows} rows and {_QUEUE_SECONDS:g} s, {_CONNECTIONS} connections; {_PROBES:g}/s with mc={_PROBE_MC}"
        " all the time"
    )
    limits = {"MCDROPOUT_MAX_QUEUE_ROWS": str(rows), "MCDROPOUT_MAX_QUEUE_SECONDS": str(_QUEUE_SECONDS)}
    with ours(folder, **limits) as server:
        resident = _Resident(server)
        run = generator.run(Job(server.port, streams, _CALM + length + _AFTER, warm_up=2.0))
        memory = resident.stop()
        crashed = server.process.poll() is not None
    return _judge(run, length, rows, capacity, memory, crashed)


def _judge(run: Run, length: float, rows: int, capacity: float, memory: np.ndarray, crashed: bool) -> dict[str, Any]:
    probes, flood = run.streams
    begin = run.begin + _CALM
    end = begin + length
    before = _p99(probes, run.begin, begin)
    lines = [["", "answers/s", "p50 ms", "p99 ms", "most ms"]]
    for name, answers, status, since, until in (
        ("probes before", probes, 200, run.begin, begin),
        ("probes during, accepted", probes, 200, begin, end),
        ("flood, accepted", flood, 200, begin, end),
        ("flood, refused", flood, 503, begin, end),
        ("probes after", probes, 200, end, run.end),
    ):
        seconds = answers.latency[answers.asked(since, until, status)]
        figures = np.quantile(seconds, (0.5, 0.99, 1.0)) if len(seconds) else [np.nan] * 3
        lines.append([name, f"{len(seconds) / (until - since):.0f}", *(f"{1e3 * value:.1f}" for value in figures)])
    _print_table(lines)
    after = [_p99(probes, end + second, end + second + 1) for second in range(_AFTER - 1)]
    calm = [second for second, p99 in enumerate(after, 1) if p99 <= RECOVERED_TIMES * before]
    recovered = calm[0] if calm else np.inf
    served = (flood.answered(begin, end).sum() + probes.answered(begin, end).sum()) / length
    bound = rows / capacity
    quarters = [_p99(flood, begin + length * part / 4, begin + length * (part + 1) / 4) for part in range(4)]
    accepted, refused = _p99(flood, begin, end), _p99(flood, begin, end, 503)
    others = sorted({*probes.status.tolist(), *flood.status.tolist()} - {200, 503})
    lost = int((flood.status == CLOSED).sum() + (probes.status == CLOSED).sum())
    times, resident = memory
    during = resident[(times >= begin) & (times < end)]
    first, last = (float(np.median(part)) for part in (during[: len(during) // 4], during[-len(during) // 4 :]))
    goals = {
        f"no crash, and nothing but 200 and 503 (other: {others or 'none'}, connections lost: {lost})": not crashed
        and not others,
        f"memory flat: {first:.0f} MiB in the first quarter, {last:.0f} in the last": last <= MOST_GROWTH * first,
        f"accepted within twice the queue, {2e3 * bound:.0f} ms: p99 {1e3 * accepted:.0f} ms": accepted <= 2 * bound,
        f"refused within {1e3 * REFUSED_WITHIN:g} ms: p99 {1e3 * refused:.1f} ms": refused <= REFUSED_WITHIN,
        f"p99 back to {RECOVERED_TIMES} times that before within {RECOVERED_WITHIN} s: {recovered} s": recovered
        <= RECOVERED_WITHIN,
    }
    for goal, met in goals.items():
        print(f"   {goal}: {'MET' if met else 'not met'}")
    print(
        f"   answered: {served:.0f}/s, {served / capacity:.0%} of the capacity; p99 of the accepted by quarters:"
        f" {', '.join(f'{1e3 * value:.0f}' for value in quarters)} ms"
    )
    print(
        f"   never sent, since no connection was free: {flood.unsent}; p99 by seconds after:"
        f" {', '.join(f'{1e3 * value:.0f}' for value in after[:6])} ms"
    )
    return {
        "capacity_queue_seconds": bound,
        "served_share": served / capacity,
        "accepted_p99": accepted,
        "refused_p99": refused,
        "before_p99": before,
        "after_p99": after,
        "recovered_seconds": recovered,
        "resident": [first, last],
        "met": all(goals.values()),
    }


def _p99(answers: Answers, begin: float, end: float, status: int = 200) -> float:
    seconds = answers.latency[answers.asked(begin, end, status)]
    return float(np.quantile(seconds, 0.99)) if len(seconds) else np.inf


class _Resident:
    """Looks at a server's memory twice a second."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._seen: list[tuple[float, float]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> np.ndarray:
        """Times and MiB, `[2, looks]`."""
        self._stopped.set()
        self._thread.join()
        return np.array(self._seen).T

    def _look(self) -> None:
        while not self._stopped.wait(0.5) and self._server.process.poll() is None:
            self._seen.append((time.perf_counter(), self._server.resident))
