"""How soon a server answers, and what memory it takes, with PyTorch installed and without.

    python -m benchmarks.start --plain .venv/plain/bin/python

starts `mcdropout serve` on the compiled mnist-cnn in both environments, in turn, and a process that only imports
PyTorch, for scale. Time is from exec to the first answer, polled every 5 ms; memory is resident, after that answer.
The answers of both are compared byte by byte.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks.bundles import MODELS
from benchmarks.timing import Spread

_BODY = (MODELS / "mnist-cnn" / "example.json").read_bytes()
_POLL_SECONDS = 0.005
_MOST_SECONDS = 60.0


def main() -> int:
    """Measure, and print a table; 1 where answers differ."""
    arguments = _arguments()
    environments = {"PyTorch installed": Path(sys.executable), "no PyTorch": arguments.plain}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in [*environments, "import torch alone"]}
    answers: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(MODELS / "mnist-cnn", Path(folder) / "mnist-cnn")
        for _ in range(arguments.repeat):
            for name, python in environments.items():
                seconds, megabytes, answers[name] = _start(python, Path(folder))
                measured[name].append((seconds, megabytes))
            measured["import torch alone"].append(_import_torch())
    print(f"{'':<20}{'seconds to an answer':<28}{'resident MiB':<22}")
    for name, pairs in measured.items():
        seconds, megabytes = (np.array(column) for column in zip(*pairs, strict=True))
        print(f"{name:<20}{Spread.of(seconds)!s:<28}{Spread.of(megabytes)!s:<22}")
    same = len(set(answers.values())) == 1
    print(f"answers of both, mc=50: {'the same to the byte' if same else 'THEY DIFFER'}")
    return 0 if same else 1


def _start(python: Path, models: Path) -> tuple[float, float, bytes]:
    """Seconds from exec to the first answer, MiB resident after it, and the answer but for its timing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "mcdropout", "serve", "--models", str(models), "--port", str(port), "--no-compile"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            answer = _first_answer(f"http://127.0.0.1:{port}/predict?mc=50&seed=7", process)
            seconds = time.perf_counter() - began
            return seconds, _resident(process.pid), answer.partition(b'"timing"')[0]
        finally:
            process.terminate()


def _first_answer(url: str, process: "subprocess.Popen[bytes]") -> bytes:
    request = urllib.request.Request(url, _BODY, {"content-type": "application/json"})
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=_MOST_SECONDS) as response:
                answer: bytes = response.read()
                return answer
        except (urllib.error.URLError, ConnectionError):
            time.sleep(_POLL_SECONDS)
    raise SystemExit(f"no answer in {_MOST_SECONDS:g} s")


def _import_torch() -> tuple[float, float]:
    began = time.perf_counter()
    command = [sys.executable, "-c", "import torch; print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - began
        resident = _resident(process.pid)
        process.kill()
    return seconds, resident


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", type=Path, required=True, help="Python of an environment without PyTorch")
    parser.add_argument("--repeat", type=int, default=7, help="rounds (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
