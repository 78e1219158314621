"""All 10,000 test digits over HTTP, one a request: how right the answers are, and how many a second.

    python -m benchmarks.http --data-dir FOLDER

The real server runs as a process of its own on a free port of the loopback interface, on the same cores as the clients.
"""

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt
import orjson

from benchmarks.bundles import REPOSITORY, mnist_module
from tests.servers import Server, serving

MODELS = ("mnist-cnn", "mnist-mlp")
PASSES = (50, 0)


@dataclass(frozen=True)
class Outcome:
    """What one round over the test set gave.

    Attributes:
        probabilities: `[digits, classes]`, the mean of each answer.
        seconds: `[digits]`, from sending a request to its answer.
        total: from the first request to the last answer, in seconds.
    """

    probabilities: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    total: float


async def ask_all(url: str, bodies: list[bytes], clients: int) -> Outcome:
    """Send every body, by so many clients that each wait for their answer before they send the next."""
    means: list[list[float]] = [[]] * len(bodies)
    seconds = np.zeros(len(bodies))
    waiting = iter(range(len(bodies)))
    headers = {"content-type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        for index in waiting:
            sent = time.perf_counter()
            async with session.post(url, data=bodies[index], headers=headers) as response:
                answer = orjson.loads(await response.read())
            response.raise_for_status()
            seconds[index] = time.perf_counter() - sent
            means[index] = answer["predictions"][0]["mean"]

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients), timeout=timeout) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        total = time.perf_counter() - started
    return Outcome(np.array(means), seconds, total)


def report(
    server: Server, model: str, mc: int, bodies: list[bytes], labels: npt.NDArray[np.uint8], clients: int
) -> None:
    """Run one round and print its line."""
    url = f"{server.url}/models/{model}/predict?mc={mc}&seed=1"
    asyncio.run(ask_all(url, bodies[:500], clients))
    outcome = asyncio.run(ask_all(url, bodies, clients))
    wrong = outcome.probabilities.argmax(axis=1) != labels
    nll = -np.log(np.maximum(outcome.probabilities[np.arange(len(labels)), labels], 1e-300))
    p50, p95, p99 = 1e3 * np.quantile(outcome.seconds, [0.5, 0.95, 0.99])
    print(
        f"{model:10} {mc:4} {100 * wrong.mean():8.2f} {nll.mean():8.4f} {len(bodies) / outcome.total:12.0f}"
        f" {p50:8.1f} {p95:8.1f} {p99:8.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("MCDROPOUT_MNIST", REPOSITORY.parent / "shared" / "data" / "mnist")
    parser.add_argument("--data-dir", type=Path, default=Path(default), help="folder of the four MNIST files")
    parser.add_argument("--clients", type=int, default=32, help="requests in flight")
    arguments = parser.parse_args()
    images, labels = mnist_module().load(arguments.data_dir, "test")
    bodies = [orjson.dumps({"inputs": image[None].tolist()}) for image in images]
    print(
        f"{len(bodies)} test digits, one a request, {arguments.clients} clients, {os.cpu_count()} cores for both sides"
    )
    print(
        f"{'model':10} {'mc':>4} {'error %':>8} {'NLL':>8} {'requests/s':>12} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(REPOSITORY / "models", Path(folder), MCDROPOUT_LOG_LEVEL="warning") as server,
    ):
        server.wait_until_ready()
        for model in MODELS:
            for mc in PASSES:
                report(server, model, mc, bodies, labels, arguments.clients)


if __name__ == "__main__":
    main()
