"""Every bundle of `models/` against the plain loop: how much faster, run how, and whether both draw from the same.

    python -m benchmarks.zoo

Requests of 8 rows and 50 passes, engine and loop taking turns; compare figures of one run only. The loop runs the
network in train mode, but for its normalization layers, one pass after another, as a user would.

Then means and variances of 4,000 passes of each are compared. Differences d of paired passes are symmetric about 0 if
both sample the same distribution; then `P(|sum d| > t sqrt(sum d^2)) <= 2 exp(-t^2 / 2)` (Hoeffding): at 5 standard
errors below 1e-5 for each number. Of maps, the means over each of 4 x 4 regions are compared, so that there are not so
many numbers that some are off by chance. The exit status is 1 where one is off by more.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.bundles import MODELS
from benchmarks.engine import _off, _print_table
from benchmarks.timing import Spread, interleave
from mcdropout.catalogue.bundle import Bundle, find_bundles
from mcdropout.catalogue.code import load_network
from mcdropout.catalogue.network import examples_of, subject_of
from mcdropout.engine import Engine
from mcdropout.engine.reading import Reading

ROWS, PASSES = 8, 50
COMPARED_ROWS, COMPARED_PASSES = 4, 4000
BLOCK_PASSES = 200  # of the compared ones, so many at once: those of maps would not all fit
REGIONS = 4  # along each side of a map
MOST_STANDARD_ERRORS = 5.0
ROUNDING = 1e-6


def main() -> int:
    arguments = _arguments()
    print(f"{ROWS} rows, {PASSES} passes; median (quartiles) of {arguments.repeat} rounds, engine and loop in turns")
    lines = [
        ["bundle", "program", "once a row", "cost of 50", "engine, ms", "loop, ms", "faster by", "means", "variances"]
    ]
    worst = 0.0
    for folder in find_bundles(arguments.models):
        line, off = _compare(folder, arguments.repeat)
        lines.append(line)
        worst = max(worst, off)
        print(f"{folder.name} done", file=sys.stderr)
    _print_table(lines)
    print(
        "once a row: share of the operations that no mask touches; cost of 50: in deterministic passes, by operations"
    )
    print(f"means, variances: of {COMPARED_PASSES} passes, in standard errors off the loop's; ", end="")
    print(
        f"at most {MOST_STANDARD_ERRORS:g} are accepted: {'AGREES' if worst <= MOST_STANDARD_ERRORS else 'DISAGREES'}"
    )
    return 0 if worst <= MOST_STANDARD_ERRORS else 1


def _compare(folder: Path, repeat: int) -> tuple[list[str], float]:
    bundle = Bundle(folder)
    module, (example,) = load_network(bundle), examples_of(bundle)  # the networks here take one input
    engine = Engine.prepare(subject_of(bundle), bundle.manifest.reading)
    rows = _rows(np.asarray(example), max(ROWS, COMPARED_ROWS))
    loop = training(module)
    x, tensor = rows[:ROWS], torch.from_numpy(rows[:ROWS])
    times = interleave(
        {"engine": partial(engine.predict, x, PASSES), "loop": partial(_loop, loop, tensor, PASSES)}, repeat
    )
    compared, tensor = rows[:COMPARED_ROWS], torch.from_numpy(rows[:COMPARED_ROWS])
    found = _blocks(lambda seed: engine.samples(compared, BLOCK_PASSES, seed=seed))
    torch.manual_seed(2)
    wanted = _blocks(lambda _: _as_samples(_loop(loop, tensor, BLOCK_PASSES), engine.reading))
    squares = np.square(found - found.mean(0)) - np.square(wanted - wanted.mean(0))
    means = _off(found.mean(0) - wanted.mean(0), found - wanted, ROUNDING)
    scale = 2 * ROUNDING * wanted.std(0, ddof=1)
    variances = _off(found.var(0, ddof=1) - wanted.var(0, ddof=1), squares, scale)
    program, cost = engine.program, engine.program.cost
    line = [
        folder.name,
        f"{program.strategy}, {program.runtime}",
        f"{cost.share_once:.1%}",
        f"{cost.in_deterministic_passes(PASSES):.1f}",
        f"{Spread.of(1e3 * times['engine'])}",
        f"{Spread.of(1e3 * times['loop'])}",
        f"{Spread.of(times['loop'] / times['engine'])}",
        f"{means:.1f}",
        f"{variances:.1f}",
    ]
    return line, max(means, variances)


def training(module: nn.Module) -> nn.Module:
    """A copy in train mode, its normalization layers in eval mode."""
    module = copy.deepcopy(module).train()
    for part in module.modules():
        if isinstance(part, _NormBase):
            part.eval()
    return module


@torch.inference_mode()
def _loop(module: nn.Module, x: Tensor, passes: int) -> Any:
    return [module(x) for _ in range(passes)]


def _blocks(samples_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """The samples of blocks of passes with the seeds 1, 2 and so on, `[passes, rows, ...]`, maps as their regions."""
    return np.concatenate([_in_regions(samples_of(1 + n)) for n in range(COMPARED_PASSES // BLOCK_PASSES)])


def _in_regions(samples: np.ndarray) -> np.ndarray:
    """Means over the regions of maps `[passes, rows, classes, height, width]`; others as they are."""
    if samples.ndim < 5:
        return samples
    for axis in (3, 4):
        parts = np.array_split(samples, REGIONS, axis)
        samples = np.stack([part.mean(axis) for part in parts], axis)
    return samples


def _as_samples(outputs: list[Any], reading: Reading) -> np.ndarray:
    """Probabilities, or the predicted means, `[passes, rows, ...]`."""
    stacked = torch.stack([out[0] if isinstance(out, tuple) else out for out in outputs]).double()
    axis = None if reading.class_axis is None else reading.class_axis + 1  # behind the passes
    match reading.task:
        case "classification":
            return stacked.softmax(axis).numpy()
        case "binary":
            return (stacked if axis is None else stacked.squeeze(axis)).sigmoid().numpy()
        case "multilabel":
            return stacked.sigmoid().numpy()
        case _:
            return stacked.numpy()


def _rows(example: np.ndarray, count: int) -> np.ndarray:
    """Rows like those of the example, none like another: noise of a tenth of their size is added."""
    rows = example[np.arange(count) % len(example)]
    noise = np.random.default_rng(0).normal(size=rows.shape) * np.abs(rows).mean() / 10
    return (rows + noise).astype(rows.dtype)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of bundles (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
