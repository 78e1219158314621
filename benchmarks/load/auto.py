"""Passes until the standard error is small enough: how many that takes, and whether the error bars are honest."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.bundles import MODELS
from benchmarks.load.digits import digits, one_each, together
from benchmarks.load.generator import Generator, Job, Stream, encode
from benchmarks.load.servers import ours
from benchmarks.timing import Spread
from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.rows import read_rows

MODEL = "mnist-cnn"
TOLERANCE = 0.01
TRUE_PASSES = 10_000
WITHIN = (92.0, 98.0)  # percent
_SEED, _OTHER_SEED = 1, 2
_CLIENTS = 32
_ROWS_AT_ONCE = 500
# Two runtimes' float32 probabilities differ by this much under the same masks.
_ROUNDING = 1e-6


def auto(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask `mc=auto` for each test digit, and compare with the means of very many passes."""
    images = digits(arguments.data_dir, arguments.digits)
    path = f"/models/{MODEL}/predict?mc=auto&tolerance={TOLERANCE}&seed="
    requests = tuple(encode(f"{path}{_SEED + 2 * number}", body) for number, body in enumerate(one_each(images)))
    with ours(folder) as server:
        stream = Stream(requests, _CLIENTS, once=True, keep=True)
        run = generator.run(Job(server.port, (stream,), 600.0, warm_up=0.0))
    answers = run.streams[0]
    if (failed := answers.status != 200).any():
        print(f"   not available: status {answers.status[failed][0]}, {answers.bodies[int(failed.argmax())][:300]!r}")
        return {"available": False}
    rows: list[dict[str, Any]] = [{}] * len(images)
    for number, body in zip(answers.number, answers.bodies, strict=True):
        rows[number] = orjson.loads(body)["predictions"][0]
    passes, mean, error = (np.array([row[name] for row in rows]) for name in ("passes", "mean", "std_error"))
    print(f"computing the means of {TRUE_PASSES} passes", file=sys.stderr)
    off = np.abs(mean - _true_means(images))
    inside = off <= 2 * error + _ROUNDING
    largest = error.argmax(axis=1)
    share = 100 * inside[np.arange(len(images)), largest].mean()
    uncertain = error.max(axis=1) > TOLERANCE / 10
    of_uncertain = 100 * inside[np.arange(len(images)), largest][uncertain].mean() if uncertain.any() else np.nan
    everywhere = 100 * inside.all(axis=1).mean()
    met = WITHIN[0] <= share <= WITHIN[1]
    over = 100 * (error.max(axis=1) > TOLERANCE * 1.001).mean()
    rate = len(images) / (answers.done.max() - run.begin)
    print(f"   {MODEL}, mc=auto, tolerance {TOLERANCE:g}, {len(images)} test digits, {_CLIENTS} clients: {rate:.0f}/s")
    print(
        f"   passes: mean {passes.mean():.1f}, median {np.median(passes):g}, 90% {np.quantile(passes, 0.9):g},"
        f" 99% {np.quantile(passes, 0.99):g}, most {passes.max()}; {over:.2f}% stopped above the tolerance"
    )
    print(f"   share of rows whose mean of {TRUE_PASSES} passes is within 2 reported standard errors:")
    print(
        f"      {share:.1f}% for the class with the largest; goal {WITHIN[0]:g} to {WITHIN[1]:g}%:"
        f" {'MET' if met else 'not met'}"
    )
    print(f"      {of_uncertain:.1f}% of the {uncertain.sum()} rows where that is above {TOLERANCE / 10:g}")
    print(f"      {everywhere:.1f}% for all classes at once")
    return {
        "passes": Spread.of(passes),
        "mean_passes": float(passes.mean()),
        "within_percent": float(share),
        "within_percent_of_uncertain": float(of_uncertain),
        "within_percent_all_classes": float(everywhere),
        "requests_a_second": float(rate),
        "met": bool(met),
    }


def _true_means(images: np.ndarray) -> np.ndarray:
    """`[rows, classes]`, from passes that are independent of those that were asked for."""
    model = load(MODELS / MODEL, Loading())
    manifest = model.bundle.manifest
    means = []
    for first in range(0, len(images), _ROWS_AT_ONCE):
        rows = read_rows(together(images[first : first + _ROWS_AT_ONCE]), manifest.takes)
        prediction = model.engine.predict(manifest.for_network(rows), TRUE_PASSES, seed=_OTHER_SEED + 2 * first)
        means.append(prediction.mean)
    return np.concatenate(means)
