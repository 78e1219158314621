"""Reloads under load, of good bundles and of bad ones: whether any request fails, and what they cost the others."""

import argparse
import itertools
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file, save_file

from benchmarks.bundles import MODELS
from benchmarks.engine import _print_table
from benchmarks.load.digits import digits, one_each
from benchmarks.load.generator import CLOSED, UNANSWERED, Answers, Generator, Job, Stream, encode
from benchmarks.load.servers import Server, ours
from benchmarks.load.vanish import MOST_DESCRIPTORS
from benchmarks.timing import Spread
from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.compilation import compile_bundle, install
from mcdropout.catalogue.provenance import stale_parts

_MODEL, _MC = "mnist-mlp", 20
_CLIENTS = 16
_JOB_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
_REFUSED = 422
_FAILURES = {CLOSED: "closed", UNANSWERED: "unanswered"}


def _truncate(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def _without_dropout(bundle: Path) -> None:
    path = bundle / "network.py"
    path.write_text(path.read_text().replace("nn.Dropout(", "nn.Identity("))


def _change(bundle: Path, **fields: object) -> None:
    path = bundle / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


@dataclass(frozen=True)
class _Kind:
    """What a bundle is like that is reloaded.

    Attributes:
        good: whether it is to be served.
        often: how many of a round's reloads are of it; less where it has to be compiled, which takes seconds.
        weights: whether they differ from those that serve.
        edit: done to a bundle that is good.
    """

    good: bool
    often: int
    weights: bool = True
    edit: Callable[[Path], None] = lambda bundle: None


_KINDS = {
    "new version": _Kind(True, 4, weights=False),
    "new weights": _Kind(True, 4),
    "compiled/ cut off, compiled anew": _Kind(
        True, 1, edit=lambda bundle: _truncate(bundle / COMPILED / "suffix.onnx.data", 0.5)
    ),
    "broken YAML": _Kind(False, 2, edit=lambda bundle: _truncate(bundle / "model.yaml", 0.5)),
    "another name": _Kind(False, 2, edit=lambda bundle: _change(bundle, name="renamed")),
    "too few labels": _Kind(False, 3, edit=lambda bundle: _change(bundle, labels=["a", "b"])),
    "weights cut off": _Kind(False, 1, edit=lambda bundle: _truncate(bundle / "weights.safetensors", 0.5)),
    "no dropout": _Kind(False, 1, edit=_without_dropout),
}


@dataclass(frozen=True)
class _Reload:
    """A reload, with its times in `perf_counter`'s, and what is wrong with its outcome: nothing, where empty."""

    kind: str
    began: float
    ended: float
    wrong: str


def reload(generator: Generator, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The bundle is overwritten file by file, as `cp -r` does, and reloaded, one after the other, in a seeded order.

    After each reload one request tells which version serves, and by its answer which weights.
    """
    versions = _versions(folder / "versions")
    bodies = one_each(digits(arguments.data_dir, 100))
    stream = Stream(tuple(encode(f"/predict?mc={_MC}", body) for body in bodies), _CLIENTS)
    models = folder / "models"
    shutil.copytree(versions[0], models / _MODEL)
    done: list[_Reload] = []
    seen: list[float] = []
    with ours(folder, models=models, default=_MODEL) as server:
        subject = _Subject(server, models / _MODEL, versions, bodies[0])
        alone = generator.run(Job(server.port, (stream,), 2 * arguments.seconds))
        before = _settled(server)
        with _load(generator, Job(server.port, (stream,), _JOB_SECONDS)) as loads:
            for number, kind in enumerate(itertools.islice(_kinds(), arguments.reloads), 1):
                done.append(subject.reload(kind, f"reload {number}"))
                seen.append(server.resident)
        after = _settled(server)
    quiet = alone.streams[0].latency[alone.streams[0].answered(alone.begin, alone.end)]
    status = np.concatenate([answers.status for answers in loads])
    ended = np.concatenate([answers.done for answers in loads])
    latency = np.concatenate([answers.latency for answers in loads])
    ended, latency = ended[status == 200], latency[status == 200]
    _print_kinds(done, ended, latency)
    for one in done:
        if one.wrong:
            print(f"   {one.kind}: {one.wrong}")
    failed = {_FAILURES.get(code, str(code)): int((status == code).sum()) for code in set(status.tolist()) - {200}}
    refused = sum(answers.refused for answers in loads)
    p99 = [1e3 * float(np.quantile(x, 0.99)) for x in (quiet, latency)]
    quarter = max(1, len(seen) // 4)
    first, last = float(np.median(seen[:quarter])), float(np.median(seen[-quarter:]))
    good = sum(_KINDS[one.kind].good for one in done)
    print(
        f"   {good} good and {len(done) - good} bad reloads in {done[-1].ended - done[0].began:.0f} s;"
        f" {_CLIENTS} clients of one row, mc={_MC}\n"
        f"   p99 {p99[0]:.1f} ms without reloads, {p99[1]:.1f} with; the longest {1e3 * latency.max():.0f} ms\n"
        f"   resident: {before[0]:.0f} MiB before, {after[0]:.0f} after;"
        f" median of the first quarter of reloads {first:.0f}, of the last {last:.0f}"
    )
    wrong = sum(bool(one.wrong) for one in done)
    left = after[1] - before[1]
    goals = {
        f"no failed request: {len(latency)} answered, failed {failed or 0}, {refused} connections refused": (
            not failed and not refused
        ),
        f"good ones serve, bad ones are refused and what served still does: {wrong} did not": not wrong,
        f"no descriptor left: {before[1]} before, {after[1]} after": left <= MOST_DESCRIPTORS,
    }
    for goal, met in goals.items():
        print(f"   {goal}: {'MET' if met else 'not met'}")
    return {
        "good": good,
        "bad": len(done) - good,
        "wrong": [f"{one.kind}: {one.wrong}" for one in done if one.wrong],
        "answered": len(latency),
        "failed": failed,
        "refused": refused,
        "p99_ms": p99,
        "longest_ms": 1e3 * float(latency.max()),
        "reload_seconds": {kind: Spread.of(_seconds(done, kind)) for kind in _KINDS if _seconds(done, kind)},
        "resident": {"before": before[0], "after": after[0], "first_quarter": first, "last_quarter": last},
        "descriptors": [before[1], after[1]],
        "met": all(goals.values()),
    }


class _Subject:
    """The bundle that is overwritten and reloaded, and what ought to serve of it."""

    def __init__(self, server: Server, bundle: Path, versions: tuple[Path, Path], body: bytes) -> None:
        self._server = server
        self._bundle = bundle
        self._versions = versions
        self._body = body
        self._serving = 0  # whose weights
        self._version = ""
        self._means: list[np.ndarray] = []
        for weights in (1, 0):  # the first reloads: they make what stays, and tell the answers to come
            self._put(weights, f"first {weights}")
            status, content = self._post()
            if status != 200:
                raise RuntimeError(f"the first reload is answered with {status}: {content.decode()}")
            self._version, mean = self._answer()
            self._means.insert(0, mean)
        if np.allclose(*self._means, atol=1e-3):
            raise RuntimeError("the answers of the two versions are the same")

    def reload(self, name: str, version: str) -> _Reload:
        """Write a bundle of a kind, and reload it."""
        kind = _KINDS[name]
        weights = 1 - self._serving if kind.weights else self._serving
        self._put(weights, version)
        kind.edit(self._bundle)
        began = time.perf_counter()
        status, content = self._post()
        ended = time.perf_counter()
        if kind.good and status == 200:
            self._serving, self._version = weights, version
        return _Reload(name, began, ended, self._wrong(kind, status, content))

    def _wrong(self, kind: _Kind, status: int, content: bytes) -> str:
        wanted = 200 if kind.good else _REFUSED
        if status != wanted:
            return f"{status}, where {wanted} was expected: {content.decode(errors='replace')}"
        version, mean = self._answer()
        if version != self._version:
            return f"{version!r} serves, where {self._version!r} was expected"
        if not np.allclose(mean, self._means[self._serving], atol=1e-5):
            return f"{version!r} answers {mean}, where {self._means[self._serving]} was expected"
        return ""

    def _put(self, weights: int, version: str) -> None:
        shutil.copytree(self._versions[weights], self._bundle, dirs_exist_ok=True)
        _change(self._bundle, version=version)

    def _post(self) -> tuple[int, bytes]:
        return self._server.get(f"/models/{_MODEL}/reload", b"")

    def _answer(self) -> tuple[str, np.ndarray]:
        status, content = self._server.get(f"/models/{_MODEL}/predict?mc={_MC}&seed=1", self._body)
        if status != 200:
            return f"nothing ({status})", np.empty(0)
        answer = json.loads(content)
        return answer["version"], np.array(answer["predictions"][0]["mean"])


def _versions(place: Path) -> tuple[Path, Path]:
    """The bundle and one with other weights, both compiled."""
    versions = place / "first", place / "second"
    for version in versions:
        shutil.copytree(MODELS / _MODEL, version / _MODEL, ignore=shutil.ignore_patterns("__pycache__"))
    first, second = (version / _MODEL for version in versions)
    weights = load_file(first / "weights.safetensors")
    save_file({name: 0.8 * value for name, value in weights.items()}, second / "weights.safetensors")
    for folder in (first, second):
        bundle = Bundle(folder)
        if stale_parts(bundle):
            compile_bundle(bundle, place / "compiled")
            install(place / "compiled", bundle)
    return first, second


def _kinds() -> Iterator[str]:
    """Without end: each round holds every kind as often as it says, in an order drawn anew."""
    shuffle = random.Random(0).shuffle
    one_round = [name for name, kind in _KINDS.items() for _ in range(kind.often)]
    while True:
        shuffle(one_round)
        yield from one_round


@contextmanager
def _load(generator: Generator, job: Job) -> Iterator[list[Answers]]:
    """Run a job over and over until the end of the block; how long that takes nobody knows beforehand."""
    over = threading.Event()
    found: list[Answers] = []

    def run() -> None:
        while not over.is_set():
            found.extend(generator.run(job).streams)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run)
        try:
            yield found
        finally:
            over.set()
        running.result()


def _settled(server: Server) -> tuple[float, int]:
    """Resident memory in MiB and open descriptors, when what clients closed is closed."""
    time.sleep(_SETTLE_SECONDS)
    return server.resident, server.descriptors


def _seconds(done: list[_Reload], kind: str) -> list[float]:
    return [one.ended - one.began for one in done if one.kind == kind]


def _print_kinds(done: list[_Reload], ended: np.ndarray, latency: np.ndarray) -> None:
    lines = [["bundle", "is to be", "reloads", "as it ought to", "seconds", "p99 ms meanwhile", "longest ms"]]
    for name, kind in _KINDS.items():
        mine = [one for one in done if one.kind == name]
        if not mine:
            continue
        right = sum(not one.wrong for one in mine)
        during = np.concatenate([latency[(ended >= one.began) & (ended < one.ended)] for one in mine])
        cells = [f"{1e3 * np.quantile(during, 0.99):.1f}", f"{1e3 * during.max():.0f}"] if len(during) else ["", ""]
        told = "served" if kind.good else "refused"
        lines.append([name, told, str(len(mine)), str(right), f"{Spread.of(_seconds(done, name))}", *cells])
    _print_table(lines)
