"""The service on Ray Serve, on a cluster of this machine alone, for tests and benchmarks."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.patience import Limit, patience, wait_until
from tests.servers import ROOT, family_of, free_port

HOST = "127.0.0.1"
_READY_WITHIN = 120.0  # seconds on an idle machine
_ENDS_WITHIN = 3.0  # what has not is killed
_TRIES, _RETRY_SECONDS = 5, 0.2
_REPLICA = "ray::ServeReplica:mcdropout:mcdropout"
_QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


class OnRay:
    """The service on Ray Serve, a client of it, and where Ray tells its metrics."""

    def __init__(self, port: int, metrics: int, cluster: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self.metrics = f"http://{HOST}:{metrics}/metrics"
        self.url = f"http://{HOST}:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=patience(60))
        self._cluster = cluster

    @property
    def replicas(self) -> list[int]:
        """The process of each replica."""
        found = []
        for pid in family_of(self._cluster.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_REPLICA.encode()):
                    found.append(pid)
        return found

    def wait_for_replicas(self, count: int, within: float = _READY_WITHIN) -> float:
        """Return how many seconds it took until so many replicas answer, or raise."""
        began = time.monotonic()
        wait_until(
            lambda: len(self.replicas) == count and self.answers(),
            within,
            lambda: f"{len(self.replicas)} replicas and not {count}",
        )
        return time.monotonic() - began

    def kill_one(self, within: float = _READY_WITHIN) -> float:
        """Kill a replica, and return how many seconds it took until there were as many again."""
        before = self.replicas
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: self.replicas != before, within)
        return self.wait_for_replicas(len(before), within)

    def answers(self) -> bool:
        """Whether the service is ready."""
        with suppress(httpx.TransportError):
            return self.client.get("/health/ready").status_code == 200
        return False


class Retrying(threading.Thread):
    """A client that asks one request after the other, each again where it was not answered with 200.

    Attributes:
        answered: how many were, again: how often one was asked again, failed: how many never were.
    """

    def __init__(self, service: OnRay, path: str, body: bytes) -> None:
        super().__init__()
        self._url, self._body = service.url + path, body
        self._stopped = threading.Event()
        self.answered = self.again = self.failed = 0

    def run(self) -> None:
        headers = {"content-type": "application/json"}
        with httpx.Client(timeout=patience(60), headers=headers) as client:
            while not self._stopped.is_set():
                for attempt in range(_TRIES):
                    self.again += attempt > 0
                    with suppress(httpx.TransportError):
                        if client.post(self._url, content=self._body).status_code == 200:
                            self.answered += 1
                            break
                    time.sleep(_RETRY_SECONDS)
                else:
                    self.failed += 1

    def stop(self) -> None:
        """Ask no more, and return when that is so."""
        self._stopped.set()
        self.join()


@contextmanager
def on_ray(log_folder: Path, cpus: int, environment: dict[str, str] | None = None, **options: Any) -> Iterator[OnRay]:
    """`serve run` on a Ray cluster of so many cores, whatever the machine has; nothing is left of it afterwards.

    Args:
        log_folder: where the logs go.
        cpus: what replicas may take together.
        environment: added to that of this process.
        options: the application's.
    """
    address, port, metrics = f"{HOST}:{free_port()}", free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        given = os.environ | _QUIET | {"RAY_TMPDIR": temporary} | (environment or {})
        config = log_folder / f"serve-{port}.yaml"
        application = {"name": "mcdropout", "route_prefix": "/", "import_path": "mcdropout.ray:app", "args": options}
        config.write_text(yaml.safe_dump({"http_options": {"host": HOST, "port": port}, "applications": [application]}))
        start = ["ray", "start", "--head", "--block", f"--node-ip-address={HOST}", f"--port={address.split(':')[1]}"]
        start += [
            f"--metrics-export-port={metrics}",
            f"--num-cpus={cpus}",
            "--include-dashboard=false",
            f"--temp-dir={temporary}",
        ]
        serve = ["serve", "run", f"--address={address}", str(config)]
        started: list[subprocess.Popen[bytes]] = []
        with (log_folder / f"ray-{port}.log").open("wb") as log:
            try:
                for command in (start, serve):
                    tool = Path(sys.executable).with_name(command[0])
                    process = subprocess.Popen(
                        [str(tool), *command[1:]],
                        stdout=log,
                        stderr=log,
                        cwd=ROOT,
                        env=given,
                        start_new_session=True,
                    )
                    started.append(process)
                    if process is started[0]:
                        _wait_for_port(process, int(address.split(":")[1]), Path(log.name))
                service = OnRay(port, metrics, started[0])
                _wait_until_ready(started, service, Path(log.name))
                yield service
            finally:
                _end(started)


def _wait_until_ready(processes: "list[subprocess.Popen[bytes]]", service: OnRay, log: Path) -> None:
    limit = Limit(_READY_WITHIN)
    while not limit.passed and all(process.poll() is None for process in processes):
        if service.answers():
            return
        time.sleep(0.2)
    raise AssertionError(f"the service on Ray is not ready:\n{log.read_text()[-4000:]}")


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    limit = Limit(_READY_WITHIN)
    while not limit.passed and process.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"Ray did not start:\n{log.read_text()[-4000:]}")


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End them and all that they started: Ray's workers are in process groups of their own."""
    family = [pid for process in processes for pid in family_of(process.pid)]
    for process in reversed(processes):
        process.send_signal(signal.SIGINT if process is not processes[0] else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience(_ENDS_WITHIN))
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.wait()
