"""How fast the engine is: against the plain loop and the peers, and as the number of passes grows.

    python -m benchmarks.engine --peers /tmp/peers

All figures come from one run on one machine, the contestants taking turns; compare them with each other, not with those
of another run. The peers need not be installed: without their dependencies they are fetched by

    pip download --no-deps -d /tmp/peers torch-uncertainty==0.13.0 baal==2.1.0

(`einops` must be installed for torch-uncertainty), and `--peers` names the folder of wheels, or of unpacked wheels.

The exit status says whether the engine's answers are right (1: they are not), not whether it is fast.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.bundles import REPOSITORY, load_network, load_rows
from benchmarks.memory import ROWS, request_bytes
from benchmarks.peers import EAGER_LOOP, Contestant, Moments, contestants, loop_probabilities, with_dropout_on
from benchmarks.timing import MATMUL_OPERATIONS, Spread, interleave, matmuls
from mcdropout.engine import Engine, runtimes

OURS = "mcdropout"
CNN, MLP = "mnist-cnn", "mnist-mlp"
PASSES = {CNN: 100, MLP: 50}
CNN_GOAL, MLP_GOAL = 150, 4
COST_PASSES = (10, 20, 50, 100, 200, 500, 1000)

MOST_STANDARD_ERRORS = 6.0
CHECKED_ROWS, CHECKED_PASSES = 64, 500
# Two runtimes' float32 probabilities differ by this much under the same masks.
ROUNDING = 1e-6


def main() -> int:
    arguments = _arguments()
    started = time.time()
    report: dict[str, Any] = {"machine": _machine(), "repeat": arguments.repeat, "warnings": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(f"median (quartiles) of {arguments.repeat} rounds in which the contestants take turns; {ROWS} rows a request")
    rows, warning = load_rows(arguments.data_dir, CHECKED_ROWS)
    _warn(report, warning)
    engines: dict[str, Engine] = {}
    worst = 0.0
    for number, name in enumerate(PASSES, 1):
        network, warning = load_network(name)
        _warn(report, warning)
        _say(f"loading {name}")
        engines[name] = Engine.from_module(network, rows[:1], runtime=arguments.runtime)
        references: tuple[str, ...] = ("onnx", "torch")
        others = {
            f"{OURS}, {other} runtime": Engine.from_module(network, rows[:1], runtime=other)
            for other in references
            if other != engines[name].program.runtime
        }
        print(f"\n{number}. {name}, {PASSES[name]} passes")
        report[name], off = _compare(name, network, {OURS: engines[name], **others}, rows, arguments)
        worst = max(worst, off)
    print("\n3. Cost against the number of passes")
    report["cost"] = _cost(engines, rows[:ROWS].numpy(), arguments)
    report["agreement"] = {"max_standard_errors": worst, "accepted": MOST_STANDARD_ERRORS}
    right = worst <= MOST_STANDARD_ERRORS
    print(
        f"\nagreement: at most {worst:.1f} standard errors from the eager loop, {MOST_STANDARD_ERRORS:g} are accepted:",
        end=" ",
    )
    print("AGREES" if right else "DISAGREES")
    _say(f"took {time.time() - started:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, default=_as_json) + "\n")
    return 0 if right else 1


def _compare(
    name: str, network: nn.Module, engines: dict[str, Engine], rows: Tensor, arguments: argparse.Namespace
) -> tuple[dict[str, Any], float]:
    """Time one model's contestants, print the table, and say how far from the loop ours are, in standard errors."""
    passes, x = PASSES[name], rows[:ROWS]
    ours = [
        Contestant(label, _answer(e, x.numpy(), passes), e.program.runtime if label == OURS else "")
        for label, e in engines.items()
    ]
    everyone = ours + contestants(network, x, passes, arguments.peers)
    running = {one.name: one.answer for one in everyone if one.answer}
    calls: dict[str, Callable[[], object]] = {label: partial(answer, None) for label, answer in running.items()}
    probes = matmuls() if name == MLP else {}
    _say(f"timing {name}")
    times = interleave(calls | probes, arguments.repeat)
    off = _standard_errors_off(network, x, passes, running)
    operations = 2 * ROWS * passes * _dense_multiply_adds(network)
    lines = [["contestant", "ms a request", "ours is faster by", "off by, in s.e."]]
    for one in everyone:
        if one.answer is None:
            lines.append([one.name, "not installed", one.note, ""])
            continue
        seconds = times[one.name]
        ratio = "" if one.name == OURS else f"{Spread.of(seconds / times[OURS])}"
        label = f"{one.name} [{one.note}]" if one.note else one.name
        lines.append([label, f"{Spread.of(1e3 * seconds)}", ratio, f"{off[one.name]:.1f}"])
    _print_table(lines)
    section: dict[str, Any] = {
        "runtime": engines[OURS].program.runtime,
        "passes": passes,
        "milliseconds": {label: Spread.of(1e3 * times[label]) for label in running},
        "rounds_milliseconds": {label: (1e3 * times[label]).tolist() for label in running},
        "faster_by": {label: Spread.of(times[label] / times[OURS]) for label in running},
        "standard_errors_off": off,
        "not_installed": {one.name: one.note for one in everyone if one.answer is None},
    }
    if name == CNN:
        section["goal"] = _goal(EAGER_LOOP, "the eager loop", times, CNN_GOAL)
    else:
        best = min((label for label in running if label not in engines), key=lambda label: np.median(times[label]))
        section["goal"] = _goal(best, f"the best of the others ({best})", times, MLP_GOAL)
        section["rate"] = _rate(times, operations, list(probes), engines[OURS].program.runtime)
    sharp = _check(network, engines, rows)
    section["check"] = sharp
    return section, max(
        [off[label] for label in engines] + [value for pair in sharp.values() for value in pair.values()]
    )


def _goal(other: str, title: str, times: dict[str, np.ndarray], factor: float) -> dict[str, Any]:
    ratio = Spread.of(times[other] / times[OURS])
    met = ratio.median >= factor
    print(f"   {ratio} times faster than {title}; goal: at least {factor}: {'MET' if met else 'MISSED'}")
    return {"against": other, "at_least": factor, "measured": ratio, "met": met}


def _rate(times: dict[str, np.ndarray], operations: int, probes: list[str], runtime: str) -> dict[str, Any]:
    """Print how many of the machine's float32 operations a second the dense layers get.

    The sparse runtime leaves out multiplications by zero: what it is credited with is what dense layers would do.
    """
    achieved = operations / times[OURS] / 1e9
    probe = min(probes, key=lambda label: np.median(times[label]))
    rate = MATMUL_OPERATIONS / times[probe] / 1e9
    share = Spread.of(100 * achieved / rate)
    credited = " (credited, not done: it skips zeros)" if runtime == "sparse" else ""
    print(
        f"   {Spread.of(achieved)} GFLOP/s{credited} in its dense layers, {share} % of the"
        f" {Spread.of(rate)} GFLOP/s of a float32 2048 x 2048 {probe}"
    )
    machine = {label: Spread.of(MATMUL_OPERATIONS / times[label] / 1e9) for label in probes}
    return {
        "operations": operations,
        "credited": runtime == "sparse",
        "gflops": Spread.of(achieved),
        "machine_gflops": machine,
        "share_percent": share,
    }


def _standard_errors_off(
    network: nn.Module, x: Tensor, passes: int, answers: dict[str, Callable[[int | None], Moments]]
) -> dict[str, float]:
    """How far each contestant's means, for the request that is timed, are from those of another plain loop.

    The loop is as long as theirs: class probabilities are so skewed that of two unequal samples the shorter would
    seldom see what makes up its mean, and so understate its standard error.
    """
    torch.manual_seed(1)
    expected = loop_probabilities(with_dropout_on(network), x, passes).double().numpy()
    off: dict[str, float] = {}
    for label, answer in answers.items():
        torch.manual_seed(2)
        found = answer(3)
        error = np.sqrt((found.variance + expected.var(0, ddof=1)) / passes + ROUNDING**2)
        off[label] = float(np.abs((found.mean - expected.mean(0)) / error).max())
    return off


def _check(network: nn.Module, engines: dict[str, Engine], rows: Tensor) -> dict[str, dict[str, float]]:
    """How far ours are from the plain loop, over more rows and passes: their means, and their variances.

    Seeds are fixed. Differences of paired passes are symmetric about 0 if both sample the same distribution, whatever
    it is; then `P(|sum d| > t sqrt(sum d^2)) <= 2 exp(-t^2 / 2)` (Hoeffding), below 1e-4 for all means together at 6.
    """
    torch.manual_seed(4)
    expected = loop_probabilities(with_dropout_on(network), rows, CHECKED_PASSES).double().numpy()
    checks: dict[str, dict[str, float]] = {}
    for label, engine in engines.items():
        prediction = engine.predict(rows, CHECKED_PASSES, seed=5)
        samples = engine.samples(rows, CHECKED_PASSES, seed=5)
        squares = np.square(samples - samples.mean(0)) - np.square(expected - expected.mean(0))
        variance, expected_variance = prediction.variance, expected.var(0, ddof=1)
        of_means = _off(prediction.mean - expected.mean(0), samples - expected, ROUNDING)
        of_variances = _off(variance - expected_variance, squares, 2 * ROUNDING * np.sqrt(expected_variance))
        checks[label] = {"means": of_means, "variances": of_variances}
        print(
            f"   {label}: {CHECKED_ROWS} rows, {CHECKED_PASSES} passes against as many of the eager loop: means"
            f" {of_means:.1f}, variances {of_variances:.1f} standard errors off at most"
        )
    return checks


def _off(difference: np.ndarray, paired: np.ndarray, rounding: float | np.ndarray) -> float:
    """The largest `difference` of two means in standard errors, told by the differences `[passes, ...]` of samples."""
    error = np.sqrt(np.square(paired).sum(0)) / len(paired)
    return float((np.abs(difference) / np.sqrt(error**2 + np.square(rounding) + ROUNDING**4)).max())


def _cost(engines: dict[str, Engine], x: np.ndarray, arguments: argparse.Namespace) -> dict[str, Any]:
    _say("timing the cost against the number of passes")
    times: dict[str, dict[str, np.ndarray]] = {}
    for name, engine in engines.items():
        calls = {str(passes): partial(engine.predict, x, passes) for passes in (0, *COST_PASSES)}
        times[name] = interleave(calls, arguments.repeat, settle=False)
    _say("measuring memory, a process for each line")
    requests = [(name, passes) for name in engines for passes in COST_PASSES]
    grown = request_bytes(requests, arguments.runtime)
    memory = dict(zip(requests, grown, strict=True)) if grown else {}
    report: dict[str, Any] = {}
    for name in engines:
        alone = times[name]["0"]
        lines = [
            [f"{name} [{engines[name].program.runtime}]", "ms a request", "times mc=0", "us a pass", "peak memory, MiB"]
        ]
        lines.append(["mc=0", f"{Spread.of(1e3 * alone)}", "1", "", ""])
        report[name] = {"0": {"milliseconds": Spread.of(1e3 * alone)}}
        for passes in COST_PASSES:
            seconds = times[name][str(passes)]
            costs = Spread.of(1e3 * seconds), Spread.of(seconds / alone), Spread.of(1e6 * seconds / passes)
            peak = memory.get((name, passes))
            lines.append([f"N={passes}", *map(str, costs), "not measured" if peak is None else f"+{peak / 2**20:.1f}"])
            keys = "milliseconds", "times_mc0", "microseconds_a_pass", "peak_bytes"
            report[name][str(passes)] = dict(zip(keys, (*costs, peak), strict=True))
        _print_table(lines)
    print("   peak memory: the most that is resident while a request runs, less what was before it (after one of N=10)")
    return report


def _answer(engine: Engine, x: np.ndarray, passes: int) -> Callable[[int | None], Moments]:
    def answer(seed: int | None) -> Moments:
        prediction = engine.predict(x, passes, seed)
        return Moments(prediction.mean, prediction.variance, passes)

    return answer


def _dense_multiply_adds(network: nn.Module) -> int:
    """Those of one pass of one row."""
    return sum(layer.in_features * layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear))


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, (first, *rest) in enumerate(lines):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print("   " + "   ".join(cells).rstrip())
        if number == 0:
            print("   " + "   ".join("-" * width for width in widths))


def _machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _warn(report: dict[str, Any], warning: str | None) -> None:
    if warning:
        print(f"WARNING: {warning}")
        report["warnings"].append(warning)


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def _as_json(value: object) -> object:
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    digits = os.environ.get("MCDROPOUT_MNIST") or REPOSITORY.parent / "shared" / "data" / "mnist"
    parser.add_argument("--repeat", type=int, default=11, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--runtime", choices=runtimes.names(), default="auto", help="the engine's runtime (default: %(default)s)"
    )
    parser.add_argument("--peers", type=Path, help="folder of the peers' wheels, or of unpacked wheels")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(digits),
        help="folder of MNIST's files (default: $MCDROPOUT_MNIST, else %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
