"""Clients that vanish: whether what they asked for is freed, and nothing leaks."""

import argparse
import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import HOST, Generator, Job, Stream, encode
from benchmarks.load.servers import Server, ours
from benchmarks.timing import Spread

CLIENTS = 1000
FREED_WITHIN = 2.0  # seconds
MOST_GROWTH = 1.05
MOST_DESCRIPTORS = 5
_MODEL, _MC = "mnist-mlp", 1000
_PROBES = 10.0  # a second
_WARM_UP = 100  # waves
_GIVE_UP = 60.0  # seconds
# Closed with this, a connection is reset rather than ended in order.
_RESET = struct.pack("ii", 1, 0)


def vanish(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A thousand clients at a time vanish: in the head, in the body, or waiting; one in two with a reset."""
    bodies = one_each(digits(arguments.data_dir, 50))
    request = encode(f"/models/{_MODEL}/predict?mc={_MC}", bodies[0])
    probe = Stream(tuple(encode("/predict?mc=50", body) for body in bodies), 64, rate=_PROBES)
    seconds = 60 * arguments.minutes
    freed: list[float] = []
    seen: list[tuple[int, float]] = []
    with ours(folder) as server:
        for _ in range(_WARM_UP):  # makes what stays: threads, buffers, caches
            _wave(server, request)
            _wait_until_free(server)
        base = server.descriptors
        began = time.perf_counter()
        generator.start(Job(server.port, (probe,), seconds))
        while time.perf_counter() - began < seconds:
            _wave(server, request)
            freed.append(_wait_until_free(server))
            seen.append((server.descriptors, server.resident))
        probes = generator.wait().streams[0]
        left = server.descriptors - base
        rows, cancelled = server.metric("mcdropout_queue_rows"), server.metric("mcdropout_cancelled_total")
        crashed = server.process.poll() is not None
    resident = np.array([memory for _, memory in seen])
    quarter = max(1, len(seen) // 4)
    first, last = float(np.median(resident[:quarter])), float(np.median(resident[-quarter:]))
    _print_waves(freed, seen)
    p99 = 1e3 * np.quantile(probes.latency[probes.status == 200], 0.99)
    print(
        f"   {len(freed)} waves of {CLIENTS} clients in {seconds:g} s; {cancelled or 0:.0f} requests were cancelled;"
        f" probes: {(probes.status == 200).sum()} answered, {(probes.status != 200).sum()} not, p99 {p99:.0f} ms"
    )
    goals = {
        f"rows freed within {FREED_WITHIN:g} s: at most {max(freed):.2f} s": max(freed) <= FREED_WITHIN,
        f"queue empty in the end: mcdropout_queue_rows is {rows}": rows == 0,
        f"no descriptor left: {left:+d}": left <= MOST_DESCRIPTORS,
        f"memory flat: {first:.0f} MiB in the first quarter, {last:.0f} in the last": last <= MOST_GROWTH * first,
        "no crash, and every probe answered": not crashed and bool((probes.status == 200).all()),
    }
    for goal, met in goals.items():
        print(f"   {goal}: {'MET' if met else 'not met'}")
    return {
        "waves": len(freed),
        "freed_seconds": Spread.of(freed),
        "descriptors_left": left,
        "resident": [first, last],
        "cancelled": cancelled,
        "met": all(goals.values()),
    }


def _wave(server: Server, request: bytes) -> None:
    """A third each: half of the head, half of the body, all of it."""
    head = request.find(b"\r\n\r\n")
    parts = (request[: head // 2], request[: (head + len(request)) // 2], request)
    clients = []
    for number in range(CLIENTS):
        client = socket.create_connection((HOST, server.port))
        client.sendall(parts[number % 3])
        clients.append(client)
    time.sleep(0.1)
    for number, client in enumerate(clients):
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()


def _wait_until_free(server: Server) -> float:
    """Seconds until no row waits, and infinity where that takes too long. Some are the probes': two are none."""
    started = time.perf_counter()
    while time.perf_counter() - started < _GIVE_UP:
        if (server.metric("mcdropout_queue_rows") or 0) <= 2:
            return time.perf_counter() - started
        time.sleep(0.05)
    return float("inf")


def _print_waves(freed: list[float], seen: list[tuple[int, float]]) -> None:
    lines = [["wave", "freed after s", "descriptors", "MiB"]]
    shown = np.unique(np.linspace(0, len(freed) - 1, 8).astype(int))
    for number in shown.tolist():
        descriptors, resident = seen[number]
        lines.append([str(number + 1), f"{freed[number]:.2f}", str(descriptors), f"{resident:.0f}"])
    _print_table(lines)
