"""The real server as a process, for tests."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.patience import patience, wait_until

ROOT = Path(__file__).resolve().parent.parent
MCDROPOUT = Path(sys.executable).with_name("mcdropout")
_READY_WITHIN = 60.0  # seconds on an idle machine
_STOPS_WITHIN = 30.0


class Server:
    """A running `mcdropout serve`, and a client of it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=patience(60))
        self._log = log

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """Ask over HTTPS from now on."""
        self.client.close()
        self.url = f"https://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=patience(60), verify=context)

    @property
    def log(self) -> str:
        """What it wrote by now; what it logs, it writes some tenths of a second later."""
        return self._log.read_text()

    def wait_for_log(self, *words: str, lines: int = 1) -> list[str]:
        """The lines that hold these words, once there are so many."""

        def enough() -> list[str]:
            written = self.log
            whole = written[: written.rfind("\n") + 1].splitlines()
            found = [line for line in whole if all(word in line for word in words)]
            return found if len(found) >= lines else []

        return wait_until(enough, said=lambda: f"{lines} lines of {words}:\n{self.log}", every=0.03)

    def peak_memory_grown_by(self, act: Callable[[], object]) -> int:
        """By how many KiB the most memory that it ever took, from now on, is beyond what it takes now."""
        folder = Path(f"/proc/{self.process.pid}")

        def peak() -> int:
            found = re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())
            assert found is not None
            return int(found[1])

        (folder / "clear_refs").write_text("5")  # the peak begins anew
        before = peak()
        act()
        return peak() - before

    def wait_until_listening(self) -> None:
        """Return once the server answers at all."""
        self._wait_for("/health/live")

    def wait_until_ready(self) -> None:
        """Return once the models may serve."""
        self._wait_for("/health/ready")

    def _wait_for(self, path: str) -> None:
        def answered() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with status {self.process.returncode}:\n{self.log}")
            with suppress(httpx.TransportError):
                return self.client.get(path).status_code == 200
            return False

        wait_until(answered, _READY_WITHIN, lambda: f"{path} is not answered with 200:\n{self.log}", every=0.05)

    def wait(self, seconds: float = _STOPS_WITHIN) -> int:
        """Its exit status, once it ended."""
        wait_until(lambda: self.process.poll() is not None, seconds, lambda: self.log)
        return self.process.wait()

    def stop(self) -> int:
        """Ask the server to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


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
