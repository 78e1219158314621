"""Networks of model libraries and of public habits, with random weights: right, or refused in a sentence.

    python -m benchmarks.networks --libraries .venv/networks --only timm transformers/electra --json networks.json

Networks of timm, torchvision, segmentation-models-pytorch, transformers and peft, small but of the libraries' own code,
and some written by hand as public repositories write them; none of them is in the tests, and nothing is downloaded. Of
each: whether the engine takes it; mean and variance against a plain loop of as many passes (`comparing`); mc=0 against
eval mode; a seed replayed; a row alone against the row beside others; saved and loaded; and its speed against the plain
loop and against one repeated batch, in turns, above 1 where the engine is faster.

PyPI's torchvision is compiled for a PyTorch with CUDA. Beside one without, its C++ operators do not load, and neither
it nor timm, segmentation-models-pytorch and transformers can then be imported, unless these operators are declared.
This declares them, since no network here uses them; `make bench` puts the libraries in a folder of their own, so that
nothing else has to. Networks of a library that is not there are left out, and said to be.

The exit status is 1 where an answer is wrong, or where anything but an EngineError leaves the engine.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.engine import _machine, _print_table
from benchmarks.networks.library import ROOMS, cases
from benchmarks.networks.trial import TIMED_PASSES, TIMED_ROWS, Trial, attempt
from benchmarks.timing import Spread

FAIR = 0.9


def main() -> int:
    arguments = _arguments()
    found, absent = cases(arguments.libraries)
    if arguments.only:
        found = [case for case in found if any(case.name.startswith(name) for name in arguments.only)]
    if arguments.list:
        print(*(case.name for case in found), sep="\n")
        return 0
    start = time.perf_counter()
    trials = []
    for number, case in enumerate(found):
        print(f"\r{number + 1} of {len(found)}: {case.name:<50}", end="", file=sys.stderr, flush=True)
        began = time.perf_counter()
        trial = attempt(case, arguments.passes, arguments.repeat, arguments.runtime)
        trials.append(trial)
        print(f"\r{_line(trial)} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
        gc.collect()
    _report(trials, arguments)
    for name, why in absent.items():
        print(f"{name} is left out: {why}")
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes")
    if arguments.json:
        record = {"machine": _machine(), "absent": absent, "networks": [trial.record() for trial in trials]}
        arguments.json.write_text(json.dumps(record, indent=1))
    return 1 if any(trial.outcome in ("wrong", "raw") for trial in trials) else 0


def _line(trial: Trial) -> str:
    return f"{trial.name}: {trial.outcome}{', ' + trial.why if trial.why else ''}"


def _report(trials: list[Trial], arguments: argparse.Namespace) -> None:
    print(f"{arguments.passes} passes of 4 rows compared, means and variances in standard errors off the plain loop's;")
    print(
        f"{TIMED_PASSES} passes of {' and of '.join(map(str, TIMED_ROWS))} rows timed, medians of {arguments.repeat};"
    )
    print("no repeated batch where its rows would share a draw")
    versus = [f"{name} {count}" for count in TIMED_ROWS for name in ("loop", "repeated")]
    head = ["network", "outcome", "sites", "strategy, runtime", "mean", "variance", "together", "ratio", "saved"]
    lines = [[*head, *(f"x {name}" for name in versus)]]
    for trial in trials:
        far = trial.distance
        lines.append(
            [
                trial.name,
                trial.outcome,
                str(trial.sites) if trial.sites else "",
                f"{trial.strategy}, {trial.runtime}" if trial.runtime else "",
                *(f"{x:.1f}" if far else "" for x in ((far.mean, far.variance, far.together) if far else (0, 0, 0))),
                f"{far.ratio:.2f}" if far else "",
                "" if trial.saved is None else "yes" if trial.saved else "no",
                *(_times(trial.faster.get(name)) for name in versus),
            ]
        )
    _print_table(lines)
    for trial in trials:
        if trial.why:
            print(f"{trial.name} ({trial.outcome}): {trial.why}")
    slow = [
        f"{trial.name}, {name}: {_times(x)}" for trial in trials for name, x in trial.faster.items() if x.median < FAIR
    ]
    counts = ", ".join(
        f"{sum(trial.outcome == outcome for trial in trials)} {outcome}"
        for outcome in ("right", "refused", "wrong", "raw", "unbuilt")
    )
    print(
        f"{len(trials)} networks: {counts}; {len(slow)} of {sum(len(t.faster) for t in trials)} ratios under {FAIR:g}"
    )
    for line in slow:
        print(f"   {line}")


def _times(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"names, or how they begin: {', '.join(ROOMS)}")
    parser.add_argument("--libraries", type=Path, help="folder with libraries that are not installed")
    parser.add_argument("--passes", type=int, default=2000, help="compared with the loop's (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of timing, 0 for none (default: %(default)s)")
    parser.add_argument("--runtime", default="auto", help="as for Engine.from_module (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names alone")
    parser.add_argument("--json", type=Path, help="write everything there as well")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
