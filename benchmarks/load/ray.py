"""The service on Ray Serve: throughput of one replica and of two, beside the service alone; and a killed replica.

    python -m benchmarks.load.ray

Replicas have a core each, as the service alone has. Ray hands requests out by its own proxy, which can tell models
apart, or by HAProxy, which is quicker.
"""

import argparse
import os
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.bundles import MODELS, REPOSITORY
from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import Generator, Job, Stream, encode
from benchmarks.load.servers import ours
from benchmarks.load.throughput import Point
from benchmarks.timing import Spread
from tests.rays import OnRay, Retrying, on_ray

_PATH = "/models/mnist-cnn/predict?mc=50"
_CLIENTS = (1, 32)
_BALANCERS = {"Ray's proxy": {}, "HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}


def _measured(generator: Generator, port: int, bodies: list[bytes], seconds: float) -> list[Point]:
    """What is answered to each number of clients."""
    requests = tuple(encode(_PATH, body) for body in bodies)
    return [Point.of(generator.run(Job(port, (Stream(requests, clients),), seconds))) for clients in _CLIENTS]


def throughput(generator: Generator, folder: Path, bodies: list[bytes], arguments: argparse.Namespace) -> None:
    """Print what each way to serve answers."""
    found: dict[str, list[list[Point]]] = {}
    for _ in range(arguments.repeat):
        for workers in (1, 2):
            flags = () if workers == 1 else ("--workers", "2")
            with ours(folder, "--threads", "1", *flags) as server:
                name = "the service alone, " + ("one process" if workers == 1 else "two workers")
                found.setdefault(name, []).append(_measured(generator, server.port, bodies, arguments.seconds))
        for balancer, environment in _BALANCERS.items():
            for replicas in (1, 2):
                with _on_ray(folder, replicas, environment) as service:
                    name = f"{balancer}, {replicas} replica" + ("s" if replicas > 1 else "")
                    found.setdefault(name, []).append(_measured(generator, service.port, bodies, arguments.seconds))
    lines = [["served by", "clients", "requests/s", "p50 ms", "p99 ms", "times one replica"]]
    for name, rounds in found.items():
        for index, clients in enumerate(_CLIENTS):
            rates = Spread.of([one[index].rate for one in rounds])
            p50, p99 = (Spread.of([1e3 * getattr(one[index], name) for one in rounds]) for name in ("p50", "p99"))
            one = found.get(name.replace("2 replicas", "1 replica"), rounds)
            times = [mine[index].rate / its[index].rate for mine, its in zip(rounds, one, strict=True)]
            last = f"{Spread.of(times)}" if "2 replicas" in name else ""
            lines.append([name, str(clients), f"{rates}", f"{p50}", f"{p99}", last])
    _print_table(lines)


def _on_ray(folder: Path, replicas: int, environment: dict[str, str]) -> AbstractContextManager[OnRay]:
    """So many replicas, of a core each."""
    options = {"models": str(MODELS), "default": "mnist-cnn", "num_cpus": 1}
    options |= {"min_replicas": replicas, "max_replicas": replicas}
    return on_ray(folder, replicas, environment | {"MCDROPOUT_LOG_LEVEL": "warning"}, **options)


def killed(folder: Path, body: bytes, balancer: str, rounds: int) -> list[list[str]]:
    """Kill one of two replicas while clients ask, which try again where they get no answer; a line for each round."""
    lines = []
    with _on_ray(folder, 2, _BALANCERS[balancer]) as service:
        for number in range(rounds):
            service.wait_for_replicas(2)
            clients = [Retrying(service, _PATH, body) for _ in range(8)]
            for client in clients:
                client.start()
            time.sleep(2)
            seconds = service.kill_one()
            for client in clients:
                client.stop()
            answered, again, failed = (
                sum(getattr(client, name) for client in clients) for name in ("answered", "again", "failed")
            )
            lines.append([balancer, str(number + 1), str(answered), str(again), str(failed), f"{seconds:.1f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("MCDROPOUT_MNIST", REPOSITORY.parent / "shared" / "data" / "mnist")
    parser.add_argument("--data-dir", type=Path, default=Path(default), help="folder of the four MNIST files")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    bodies = one_each(digits(arguments.data_dir, 500))
    print(f"{os.cpu_count()} cores for all; mnist-cnn, 50 passes, one digit a request; median (quartiles)")
    with tempfile.TemporaryDirectory() as folder:
        with Generator() as generator:
            throughput(generator, Path(folder), bodies, arguments)
        lines = [["handed out by", "round", "answered", "asked again", "failed after that", "two replicas after s"]]
        for balancer in _BALANCERS:
            lines += killed(Path(folder), bodies[0], balancer, arguments.repeat)
        print("\n   one of two replicas is killed")
        _print_table(lines)


if __name__ == "__main__":
    main()
