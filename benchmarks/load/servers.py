"""Servers as processes of their own, and what they take of the machine."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bundles import MODELS
from benchmarks.load.generator import HOST
from tests.servers import family_of, free_port

_READY_WITHIN = 180.0  # seconds
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Server:
    """A server that runs, in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process and all that descend from it."""
        return tuple(family_of(self.process.pid))

    @property
    def resident(self) -> float:
        """Memory of its first process, in MiB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    @property
    def descriptors(self) -> int:
        """Files and sockets that its first process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def pause(self) -> None:
        """Stop all its processes: some use the processors with nothing to do."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def get(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer to one request, on a connection of its own."""
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def metric(self, name: str) -> float | None:
        """A metric without labels, or the sum over its labels; None where there is none of that name."""
        lines = self.get("/metrics")[1].decode().splitlines()
        found = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(found) if found else None


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    ready: str,
    body: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server until the end of the block.

    Args:
        command: what to run; the port is added to it.
        folder: where its log goes.
        ready: a path that is answered with 200 once it may be measured.
        body: what is posted there; a GET without.
        environment: added to that of this process.

    Raises:
        RuntimeError: it ends before it is ready, or takes too long.
    """
    port = free_port()
    log = folder / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        _wait(server, ready, body)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ours(
    folder: Path,
    *flags: str,
    models: Path = MODELS,
    default: str = "mnist-cnn",
    prefix: Sequence[str] = (),
    **environment: str,
) -> AbstractContextManager[Server]:
    """`mcdropout serve`, quiet, by a command that `prefix` begins; on `models/` where no other folder is given."""
    command = [
        *prefix,
        sys.executable,
        "-m",
        "mcdropout",
        "serve",
        "--models",
        str(models),
        "--default",
        default,
        *flags,
    ]
    return running(command, folder, "/health/ready", None, {"MCDROPOUT_LOG_LEVEL": "warning"} | environment)


def _wait(server: Server, ready: str, body: bytes | None) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with suppress(OSError):
            if server.get(ready, body)[0] == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.process.args!r} is not ready:\n{server.log.read_text()[-4000:]}")
