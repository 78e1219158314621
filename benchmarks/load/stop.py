"""SIGTERM under load: what becomes of requests in flight."""

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import CLOSED, UNANSWERED, Generator, Job, Stream, encode
from benchmarks.load.servers import ours

_CLIENTS = 32
_MC = 200
_SECONDS = 1.0
_ENDS_WITHIN = 40.0  # seconds


def stop(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A request that was sent before the signal has to be answered; one sent later may find the door closed.

    Later ones, on a connection that the server closes at that moment, are told apart: a client may send them again.
    """
    lines = [["round", "answered", "refused (503)", "lost, sent before", "closed, sent after", "ended with", "after s"]]
    requests = tuple(encode(f"/predict?mc={_MC}", body) for body in one_each(digits(arguments.data_dir, 100)))
    lost, statuses = [], []
    for number in range(arguments.repeat):
        with ours(folder) as server:
            generator.start(Job(server.port, (Stream(requests, _CLIENTS),), 2 * _SECONDS, drain=5.0))
            time.sleep(0.5 + _SECONDS)
            signalled = time.perf_counter()
            os.kill(server.process.pid, signal.SIGTERM)
            try:
                status: int | None = server.process.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                status = None
            took = time.perf_counter() - signalled
            answers = generator.wait().streams[0]
        unanswered = (answers.status == CLOSED) | (answers.status == UNANSWERED)
        before = answers.sent < signalled
        figures = (
            (answers.status == 200).sum(),
            (answers.status == 503).sum(),
            (unanswered & before).sum(),
            (unanswered & ~before).sum(),
        )
        lost.append(int(figures[2]))
        statuses.append(status)
        lines.append([str(number + 1), *map(str, figures), str(status), f"{took:.2f}"])
    _print_table(lines)
    met = not any(lost) and statuses == [0] * len(statuses)
    print(f"   no request lost, exit status 0: {'MET' if met else 'not met'}")
    return {"lost": lost, "exit_status": statuses, "met": met}
