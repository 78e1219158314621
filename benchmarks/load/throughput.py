"""Requests a second, and how long each takes, against LitServe and FastAPI."""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import Generator, Job, Run, Stream, encode, seconds_of
from benchmarks.load.peers import PASSES
from benchmarks.load.servers import Server, ours, running
from benchmarks.timing import Spread

MODELS = ("mnist-cnn", "mnist-mlp")
CLIENTS = (1, 8, 32, 128)
OURS, DETERMINISTIC = "mcdropout", "mcdropout, mc=0"
LITSERVE, FASTAPI = "LitServe", "FastAPI"
TIMES_LITSERVE, SHARE_OF_DETERMINISTIC = 30, 0.6
_GOAL_MODEL, _GOAL_CLIENTS = "mnist-cnn", 32
_DIGITS = 500
_TRIAL_SECONDS = 2.0
_LOOK_SECONDS, _IDLE_SHARE, _IDLE_WITHIN = 1.0, 0.1, 60.0
_PEERS_TAKE = 2  # times as long to measure, since they answer few requests
_OUR_WORKERS = {"one process": 1, "two workers of one thread": 2}
_SETTINGS = {
    LITSERVE: {
        "one worker": ("lit", "--threads", "2"),
        "one worker, batches of 32 in 5 ms": ("lit", "--threads", "2", "--batch", "32"),
        "two workers of one thread": ("lit", "--threads", "1", "--workers", "2"),
    },
    FASTAPI: {
        "inline": ("peers", "fastapi", "--threads", "2"),
        "thread pool": ("peers", "fastapi", "--threads", "1", "--pool"),
    },
}


@dataclass(frozen=True)
class Contestant:
    """A server, what is asked of it, and what it is set to."""

    server: Server
    path: str
    setting: str = ""


@dataclass(frozen=True)
class Point:
    """What a contestant did with so many clients, once: times in seconds."""

    rate: float
    p50: float
    p95: float
    p99: float
    server_seconds: float
    own_seconds: float

    @classmethod
    def of(cls, run: Run) -> "Point":
        """Those answers that came while it was measured; processor time is told for each."""
        answers = run.streams[0]
        if failed := sorted({*answers.status.tolist()} - {200}):
            print(f"WARNING: {np.sum(answers.status != 200)} answers were not 200 but {failed}", file=sys.stderr)
        latency = answers.latency[answers.answered(run.begin, run.end)]
        count = max(1, len(latency))
        p50, p95, p99 = np.quantile(latency, (0.5, 0.95, 0.99)).tolist() if len(latency) else [np.nan] * 3
        rate = len(latency) / (run.end - run.begin)
        return cls(rate, p50, p95, p99, run.server_seconds / count, run.own_seconds / count)


def ceiling(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the load itself could do: against a server that counts bytes, and against FastAPI that only parses JSON."""
    lines = [["clients", "server", "requests/s", "p50 ms", "p99 ms", "server us", "generator us"]]
    report: dict[str, Any] = {}
    bodies = one_each(digits(arguments.data_dir, _DIGITS))
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(_peer(command), folder, "/predict", bodies[0]))
            for name, command in (
                ("bytes are counted", ("peers", "bare")),
                ("FastAPI parses JSON", ("peers", "bare-fastapi")),
            )
        }
        for clients in CLIENTS:
            for name, server in servers.items():
                points = [
                    _measure(generator, Contestant(server, "/predict"), bodies, clients, arguments.seconds / 2)
                    for _ in range(arguments.repeat)
                ]
                lines.append(
                    [str(clients), name, *_cells(points, ("rate", "p50", "p99", "server_seconds", "own_seconds"))]
                )
                report[f"{name}, {clients}"] = _spreads(points)
    _print_table(lines)
    print("   server us, generator us: processor time a request")
    return report


def throughput(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Closed loops of one digit a request, contestants taking turns."""
    report: dict[str, Any] = {}
    for model in arguments.models:
        print(f"\n   {model}, {PASSES} passes")
        report[model] = _compare(model, generator, folder, arguments)
    return report


def _compare(model: str, generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    bodies = one_each(digits(arguments.data_dir, _DIGITS))
    with ExitStack() as stack:
        best: dict[int, dict[str, Contestant]] = {clients: {} for clients in CLIENTS}
        mine = {}
        for setting, count in _OUR_WORKERS.items():
            print(f"trying {OURS}, {setting}", file=sys.stderr)
            server = stack.enter_context(ours(folder, "--workers", str(count)))
            _wait_until_idle(server, 1 if count == 1 else 1 + count)
            server.pause()
            mine[setting] = Contestant(server, _path(model, PASSES), setting)
        one, many = (_fastest(generator, mine, bodies, clients) for clients in (1, _GOAL_CLIENTS))
        for clients in CLIENTS:
            chosen = one if clients == 1 else many
            best[clients] |= {OURS: chosen, DETERMINISTIC: replace(chosen, path=_path(model, 0))}
        for peer, settings in _SETTINGS.items():
            tried = {}
            for setting, command in settings.items():
                print(f"trying {peer}, {setting}", file=sys.stderr)
                options = ("--model", model, "--peers", str(arguments.peers))
                started = stack.enter_context(running(_peer((*command, *options)), folder, "/predict", bodies[0]))
                started.pause()
                tried[setting] = Contestant(started, "/predict", setting)
            one, many = (_fastest(generator, tried, bodies, clients) for clients in (1, _GOAL_CLIENTS))
            for clients in CLIENTS:
                best[clients][peer] = one if clients == 1 else many
        points = _rounds(generator, best, bodies, arguments)
    _table(best, points)
    return {
        "settings": {clients: {name: each.setting for name, each in best[clients].items()} for clients in CLIENTS},
        "points": {f"{name}, {clients}": _spreads(found) for (name, clients), found in points.items()},
        "goals": _goals(model, points),
    }


def _path(model: str, mc: int) -> str:
    return f"/models/{model}/predict?mc={mc}"


def _wait_until_idle(server: Server, processes: int) -> None:
    """Wait until all its processes have loaded their models: one is ready before the others."""
    deadline = time.monotonic() + _IDLE_WITHIN
    while time.monotonic() < deadline:
        pids = server.pids
        before = seconds_of(pids)
        time.sleep(_LOOK_SECONDS)
        if len(pids) >= processes and seconds_of(pids) - before < _IDLE_SHARE * _LOOK_SECONDS:
            return
    raise RuntimeError(f"{server.process.args!r} is not idle within {_IDLE_WITHIN:g} s")


def _fastest(generator: Generator, tried: dict[str, Contestant], bodies: list[bytes], clients: int) -> Contestant:
    rates = {
        setting: _measure(generator, contestant, bodies, clients, _TRIAL_SECONDS).rate
        for setting, contestant in tried.items()
    }
    told = ", ".join(f"{setting} {rate:.0f}/s" for setting, rate in rates.items())
    print(f"   tried with {clients} clients: {told}")
    return tried[max(rates, key=lambda setting: rates[setting])]


def _rounds(
    generator: Generator, best: dict[int, dict[str, Contestant]], bodies: list[bytes], arguments: argparse.Namespace
) -> dict[tuple[str, int], list[Point]]:
    points: dict[tuple[str, int], list[Point]] = {}
    shuffle = random.Random(0).shuffle
    for number in range(arguments.repeat):
        for clients in CLIENTS:
            order = list(best[clients].items())
            shuffle(order)
            for name, contestant in order:
                print(f"\r  round {number + 1}, {clients} clients, {name:20}", end="", file=sys.stderr, flush=True)
                seconds = arguments.seconds * (_PEERS_TAKE if name in _SETTINGS else 1)
                point = _measure(generator, contestant, bodies, clients, seconds)
                points.setdefault((name, clients), []).append(point)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
    return points


def _measure(
    generator: Generator, contestant: Contestant, bodies: Sequence[bytes], clients: int, seconds: float
) -> Point:
    """The server runs meanwhile, and is paused again."""
    requests = tuple(encode(contestant.path, body) for body in bodies)
    server = contestant.server
    server.resume()
    try:
        return Point.of(generator.run(Job(server.port, (Stream(requests, clients),), seconds, pids=server.pids)))
    finally:
        server.pause()


def _table(best: dict[int, dict[str, Contestant]], points: dict[tuple[str, int], list[Point]]) -> None:
    lines = [["clients", "server", "requests/s", "ours, times", "p50 ms", "p95 ms", "p99 ms", "server us"]]
    for clients, contestants in best.items():
        for name, contestant in contestants.items():
            found = points[name, clients]
            rate, *rest = _cells(found, ("rate", "p50", "p95", "p99", "server_seconds"))
            ratio = "" if name == OURS else f"{_ratio(points, name, clients)}"
            label = f"{name} ({contestant.setting})" if contestant.setting else name
            lines.append([str(clients), label, rate, ratio, *rest])
    _print_table(lines)


def _goals(model: str, points: dict[tuple[str, int], list[Point]]) -> dict[str, bool]:
    goals: dict[str, bool] = {}

    def tell(goal: str, found: str, met: bool) -> None:
        print(f"   {goal}: {found}: {'MET' if met else 'not met'}")
        goals[goal] = met

    if model == _GOAL_MODEL:
        times = _ratio(points, LITSERVE, _GOAL_CLIENTS)
        goal = f"at least {TIMES_LITSERVE} times LitServe's throughput with {_GOAL_CLIENTS} clients"
        tell(goal, str(times), times.median >= TIMES_LITSERVE)
    p99 = {key: np.median([point.p99 for point in found]) for key, found in points.items()}
    worse = [
        f"{clients} clients, {peer}"
        for clients in CLIENTS
        for peer in _SETTINGS
        if p99[OURS, clients] >= p99[peer, clients]
    ]
    tell("lower p99 than both with any number of clients", "; ".join(worse) or "lower", not worse)
    share = _ratio(points, DETERMINISTIC, _GOAL_CLIENTS)
    goal = f"at least {SHARE_OF_DETERMINISTIC} of its own throughput with mc=0, {_GOAL_CLIENTS} clients"
    tell(goal, str(share), share.median >= SHARE_OF_DETERMINISTIC)
    return goals


def _ratios(points: dict[tuple[str, int], list[Point]], name: str, clients: int) -> list[float]:
    """How many times the throughput of another ours is, in each round."""
    pairs = zip(points[OURS, clients], points[name, clients], strict=True)
    return [mine.rate / max(theirs.rate, 1e-9) for mine, theirs in pairs]


def _ratio(points: dict[tuple[str, int], list[Point]], name: str, clients: int) -> Spread:
    return Spread.of(_ratios(points, name, clients))


def _cells(points: Sequence[Point], fields: Sequence[str]) -> list[str]:
    scales = {"rate": 1.0, "server_seconds": 1e6, "own_seconds": 1e6}
    return [f"{Spread.of([scales.get(field, 1e3) * getattr(point, field) for point in points])}" for field in fields]


def _spreads(points: Sequence[Point]) -> dict[str, Spread]:
    return {field: Spread.of([getattr(point, field) for point in points]) for field in vars(points[0])}


def _peer(command: Sequence[str]) -> list[str]:
    module, *options = command
    return [sys.executable, "-m", f"benchmarks.load.{module}", *options]
