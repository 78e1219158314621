"""What a regression of every pixel takes, against N and against a classification of that shape by the same network.

    python -m benchmarks.dense

Four rows of 3 x 64 x 64 values: a regression without noise, with noise that is given, with noise that the network
predicts (which computes more), and without an interval, each by its processor time in turns with the classification.
Then the memory of each on top of the loaded engine, a process of its own for each number of passes. The exit status is
1 where a regression by the same network takes more than 1.5 times the classification's time.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bundles import REPOSITORY
from benchmarks.engine import _print_table
from benchmarks.memory import peak_bytes
from benchmarks.timing import Spread
from mcdropout.engine import Engine

ROWS, SHAPE = 4, (3, 64, 64)
MOST = 1.5
_WARM_PASSES = 4


class Pixels(nn.Module):
    """Three values a pixel; with `noise`, the logarithm of their variance too."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.features, self.drop = nn.Conv2d(3, 16, 3, padding=1), nn.Dropout2d(0.2)
        self.values = nn.Conv2d(16, 3, 3, padding=1)
        self.noise = nn.Conv2d(16, 3, 3, padding=1) if noise else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        kept = self.drop(torch.relu(self.features(x)))
        return self.values(kept) if self.noise is None else (self.values(kept), self.noise(kept))


def _of(task: str, **arguments: float | None) -> Callable[[], Engine]:
    return lambda: Engine.from_module(Pixels(), _examples(), task, **arguments)


KINDS: dict[str, Callable[[], Engine]] = {
    "classification": _of("classification"),
    "no interval": _of("regression", interval=None),
    "no noise": _of("regression"),
    "given noise": _of("regression", noise_variance=0.1),
    "predicted noise": lambda: Engine.from_module(Pixels(noise=True), _examples(), "regression"),
}
SAME_NETWORK = ("no interval", "no noise", "given noise")


def _examples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, *SHAPE)).astype(np.float32)


def _seconds(engine: Engine, passes: int) -> float:
    x = _examples()
    start = time.process_time()
    engine.predict(x, passes, seed=1)
    return time.process_time() - start


def _mebibytes(kind: str, passes: int) -> float | None:
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.dense", "--memory-of", kind, "--passes", str(passes)]
    return int(subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout) / 2**20


def _warm(kind: str) -> Engine:
    torch.manual_seed(0)
    engine = KINDS[kind]()
    engine.predict(_examples(), _WARM_PASSES)
    return engine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, nargs="+", default=[100, 500, 1000])
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--memory-of", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    if arguments.memory_of:
        engine = _warm(arguments.memory_of)
        print(peak_bytes(lambda: engine.predict(_examples(), arguments.passes[0], seed=1)))
        return 0
    engines = {kind: _warm(kind) for kind in KINDS}
    print(f"{ROWS} rows of {SHAPE}; median (quartiles) of {arguments.repeat} rounds, in turns; processor time")
    lines = [["regression", "passes", "ms a pass", "of a classification", "MiB"]]
    figures, worst = [], 0.0
    for passes in arguments.passes:
        rounds = [{kind: _seconds(engine, passes) for kind, engine in engines.items()} for _ in range(arguments.repeat)]
        for kind in KINDS:
            ratio = Spread.of([seconds[kind] / seconds["classification"] for seconds in rounds])
            each = Spread.of([1e3 * seconds[kind] / passes for seconds in rounds])
            held = _mebibytes(kind, passes)
            lines.append([kind, str(passes), str(each), str(ratio), "" if held is None else f"{held:.0f}"])
            figures.append({"kind": kind, "passes": passes, "ratio": asdict(ratio), "ms": asdict(each), "MiB": held})
            worst = max(worst, ratio.median if kind in SAME_NETWORK else 0.0)
    _print_table(lines)
    print(f"at most {MOST:g} is accepted of the same network: {'HOLDS' if worst <= MOST else 'DOES NOT HOLD'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0 if worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
