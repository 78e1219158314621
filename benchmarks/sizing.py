"""How much machine a service takes: latency and throughput by network, passes, rows of a request, and cores or GPU.

    python -m benchmarks.sizing --data-dir FOLDER
    python -m benchmarks.sizing --data-dir FOLDER --device cuda

One process serves on so many cores of this machine; the clients take some of them too. On a GPU, cores are left alone.
"""

import argparse
import json
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bundles import REPOSITORY
from benchmarks.load.digits import digits, one_each, together
from benchmarks.load.generator import Generator, Job, Stream, encode
from benchmarks.load.servers import Server, ours
from benchmarks.load.throughput import Point
from benchmarks.timing import Spread

MODELS = ("mnist-cnn", "mnist-mlp", "mnist-vit")
PASSES = (10, 50, 200)
ROWS = (1, 32)
_DIGITS = 512
_BUSY_CLIENTS = {1: 16, 32: 2}  # by the rows of a request


_LINE = "{:10} {:>6} {:>4}  {:8} {:>24} {:>24} {:>24}"


def _served(folder: Path, device: str, cores: int) -> AbstractContextManager[Server]:
    """A server on the first so many cores, or on a GPU."""
    if device != "cpu":
        return ours(folder, "--device", device)
    return ours(folder, "--threads", str(cores), prefix=("taskset", "--cpu-list", f"0-{cores - 1}"))


def _round(
    generator: Generator, server: Server, requests: tuple[bytes, ...], busy: int, seconds: float
) -> tuple[float, ...]:
    """Seconds of an answer to one client, p50 and p99; and answers a second to `busy` clients."""
    alone, many = (
        Point.of(generator.run(Job(server.port, (Stream(requests, clients),), seconds))) for clients in (1, busy)
    )
    return alone.p50, alone.p99, many.rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("MCDROPOUT_MNIST", REPOSITORY.parent / "shared" / "data" / "mnist")
    parser.add_argument("--data-dir", type=Path, default=Path(default), help="folder of the four MNIST files")
    parser.add_argument("--device", default="cpu", help='"cpu", or a GPU such as "cuda"')
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    cores = sorted({1, os.cpu_count() or 1}) if arguments.device == "cpu" else [0]
    images = digits(arguments.data_dir, _DIGITS)
    print(f"{os.cpu_count()} cores for server and clients; median (quartiles) of {arguments.repeat} rounds")
    print(_LINE.format("model", "passes", "rows", "runs on", "p50 ms, 1 client", "p99 ms", "rows/s, busy"), flush=True)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Generator() as generator:
        for count in cores:
            runs_on = arguments.device if not count else f"{count} core{'s' if count > 1 else ''}"
            with _served(Path(folder), arguments.device, count) as server:
                for model, passes, rows in product(arguments.models, PASSES, ROWS):
                    path = f"/models/{model}/predict?mc={passes}"
                    bodies = one_each(images) if rows == 1 else [together(images[:rows])]
                    requests = tuple(encode(path, body) for body in bodies)
                    busy = _BUSY_CLIENTS[rows]
                    rounds = range(arguments.repeat)
                    found = np.array([_round(generator, server, requests, busy, arguments.seconds) for _ in rounds])
                    p50, p99, rate = map(Spread.of, (found * (1e3, 1e3, rows)).T)
                    print(_LINE.format(model, passes, rows, runs_on, str(p50), str(p99), str(rate)), flush=True)
                    figures.append(
                        {"model": model, "passes": passes, "rows": rows, "runs_on": runs_on}
                        | {"p50_ms": asdict(p50), "p99_ms": asdict(p99), "rows_a_second": asdict(rate)}
                    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
