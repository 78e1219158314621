"""How much memory a request takes on top of the loaded engine; a process of its own for each number of passes.

`python -m benchmarks.memory mnist-mlp 1000 onnx` prints bytes, for 1000 passes and the runtime "onnx".
"""

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.bundles import REPOSITORY, load_network
from mcdropout.engine import Engine

ROWS = 8
_WARM_PASSES = 10
_AT_ONCE = 2


def request_bytes(requests: Iterable[tuple[str, int]], runtime: str) -> list[int] | None:
    """For each model and number of passes, the peak of resident memory while a request of 8 rows runs, less what is
    resident before; None where the system does not tell (only Linux does)."""
    if not Path("/proc/self/clear_refs").exists():
        return None

    def measure(request: tuple[str, int]) -> int:
        command = [sys.executable, "-m", "benchmarks.memory", *map(str, request), runtime]
        return int(subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(measure, requests))


def _measure(model: str, passes: int, runtime: str) -> int:
    network, _ = load_network(model)
    x = torch.rand(ROWS, 1, 28, 28).numpy()
    engine = Engine.from_module(network, x, runtime=runtime)
    engine.predict(x, _WARM_PASSES)
    return peak_bytes(lambda: engine.predict(x, passes))


def peak_bytes(call: Callable[[], object]) -> int:
    """The peak of resident memory while a call runs, less what is resident before; only Linux tells."""
    # `ru_maxrss` would still hold the peak of loading, and that of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
