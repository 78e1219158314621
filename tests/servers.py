"""The real server as a process, for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from mcdropout.log import LOG_SECONDS

ROOT = Path(__file__).resolve().parent.parent
MCDROPOUT = Path(sys.executable).with_name("mcdropout")
_READY_WITHIN = 180.0  # seconds


class Server:
    """A running `mcdropout serve`, and a client of it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self._log = log

    @property
    def log(self) -> str:
        time.sleep(2 * LOG_SECONDS)  # its lines are written a few at a time
        return self._log.read_text()

    def wait_until_listening(self) -> None:
        """Return once the server answers at all."""
        self._wait_for("/health/live")

    def wait_until_ready(self) -> None:
        """Return once the models may serve."""
        self._wait_for("/health/ready")

    def _wait_for(self, path: str) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with status {self.process.returncode}:\n{self.log}")
            try:
                if self.client.get(path).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} was not answered with 200 in {_READY_WITHIN} s:\n{self.log}")

    def stop(self) -> int:
        """Ask the server to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def family_of(root: int) -> list[int]:
    """A process and all that descend from it, the process itself first."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    family = [root]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


@contextmanager
def serving(
    folder: Path, log_folder: Path, *flags: str, command: Sequence[str] = (str(MCDROPOUT),), **environment: str
) -> Iterator[Server]:
    """`mcdropout serve` on the bundles of `folder`, on a free port, killed at the end whatever happens."""
    port = free_port()
    log = log_folder / f"server-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "serve", "--models", str(folder), "--port", str(port), *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
        )
    server = Server(process, port, log)
    try:
        yield server
    finally:
        server.client.close()
        process.kill()
        process.wait()
