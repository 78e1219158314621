"""Requests of one row, alone and beside one of a thousand after the other."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each, together
from benchmarks.load.generator import Generator, Job, Stream, encode
from benchmarks.load.servers import ours
from benchmarks.timing import Spread

SMALL_RATE = 100.0  # a second
LARGE_ROWS = 1000
MOST_TIMES = 3
_MC = 50


def mixed(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """p99 of the small ones, which are due as a Poisson process."""
    images = digits(arguments.data_dir, LARGE_ROWS)
    lines = [["model", "one-row requests", "p50 ms", "p95 ms", "p99 ms", "p99, times alone", "large ones/s"]]
    report: dict[str, Any] = {}
    with ours(folder) as server:
        for model in arguments.models:
            path = f"/models/{model}/predict?mc={_MC}"
            small = Stream(tuple(encode(path, body) for body in one_each(images)), 64, rate=SMALL_RATE)
            large = Stream((encode(path, together(images)),), 1)
            found: dict[str, list[np.ndarray]] = {"alone": [], "beside large ones": []}
            served: list[float] = []
            for _ in range(arguments.repeat):
                for name, streams in zip(found, ((small,), (small, large)), strict=True):
                    run = generator.run(Job(server.port, streams, 2 * arguments.seconds))
                    answers = run.streams[0]
                    latency = answers.latency[answers.asked(run.begin, run.end)]
                    found[name].append(1e3 * np.quantile(latency, (0.5, 0.95, 0.99)))
                    if len(streams) == 2:
                        served.append(run.streams[1].answered(run.begin, run.end).sum() / (run.end - run.begin))
            times = Spread.of([beside[2] / alone[2] for alone, beside in zip(*found.values(), strict=True)])
            for name, quantiles in found.items():
                cells = [f"{Spread.of(column)}" for column in np.array(quantiles).T]
                last = ["", ""] if name == "alone" else [f"{times}", f"{Spread.of(served)}"]
                lines.append([model, name, *cells, *last])
            report[model] = {"times_alone": times, "large_a_second": Spread.of(served)}
    _print_table(lines)
    for model, figures in report.items():
        figures["met"] = met = figures["times_alone"].median <= MOST_TIMES
        print(f"   {model}: p99 at most {MOST_TIMES} times that alone: {'MET' if met else 'not met'}")
    print(f"   {SMALL_RATE:g} one-row requests a second; one client of {LARGE_ROWS} rows a request; mc={_MC}")
    return report
