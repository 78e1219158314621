"""Compilation: a bundle's `compiled/` folder, made by a process of its own.

A network is compiled in a process of its own, with limits: whatever its code or its file does there, crashing and
taking all memory included, the server and its other models are none the worse for it. So a server that serves compiled
bundles never imports PyTorch.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.problems import LAST_WORDS
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.stages import Told
from mcdropout.machine import free_memory, signal_or_status

OUTCOME, STAGE = "outcome.json", "stage"
_MEMORY_SHARE = 0.8
_POLL_SECONDS = 0.1
_MOST_QUOTED = 2000  # characters of what a process said before it ended
Outcome = Literal["compiled", "refused", "without_dropout", "needs_pytorch"]


class WithoutDropoutError(BundleError):
    """A bundle's network has no dropout to switch on."""


@dataclass(frozen=True)
class CompileLimits:
    """What compiling a network may take.

    Attributes:
        memory_bytes: memory; None for four fifths of what is free.
        seconds: time.
    """

    memory_bytes: int | None = None
    seconds: float = 900.0


def compile_bundle(
    bundle: Bundle,
    into: Path,
    limits: CompileLimits | None = None,
    stop: threading.Event | None = None,
    told: Told = lambda stage: None,
) -> None:
    """Compile a bundle in a process of its own.

    Args:
        bundle: what to compile.
        into: a folder, made where there is none.
        limits: what it may take.
        stop: ends it when set.
        told: called with what is being done, in a few words, whenever something else begins.

    Raises:
        BundleError: the bundle is wrong, or its network is refused, ends the process, or takes more than the limits.
        WithoutDropoutError: its network has no dropout.
        UnsupportedModelError: the network runs on PyTorch only, so that there is nothing to write.
    """
    limits = limits or CompileLimits()
    memory = limits.memory_bytes or round(_MEMORY_SHARE * free_memory())
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mcdropout.catalogue.compiler", str(bundle.folder), str(into), str(memory)]
    with tempfile.TemporaryFile() as log:
        status = _run(command, log, limits.seconds, stop or threading.Event(), into / STAGE, told)
        log.seek(0)
        output = log.read().decode(errors="replace")
    (into / STAGE).unlink(missing_ok=True)
    path = into / OUTCOME
    if status is None:
        raise BundleError(f"{bundle.folder}: compiling takes longer than the {limits.seconds:g} s that are accepted")
    if not path.exists():
        raise BundleError(
            f"{bundle.folder}: compiling ended {signal_or_status(status)}; {memory / 2**20:.0f} MiB of memory were "
            f"accepted. {LAST_WORDS}{output.strip()[-_MOST_QUOTED:] or '(none)'}"
        )
    outcome = json.loads(path.read_bytes())
    path.unlink()
    if outcome["outcome"] == "without_dropout":
        raise WithoutDropoutError(outcome["error"])
    if outcome["outcome"] == "refused":
        raise BundleError(outcome["error"])
    if outcome["outcome"] == "needs_pytorch":
        raise UnsupportedModelError(outcome["error"])


def _run(
    command: list[str], log: IO[bytes], seconds: float, stop: threading.Event, stages: Path, told: Told
) -> int | None:
    """Run a process to its end; its status, or None where it was stopped or took too long."""
    deadline, last = time.monotonic() + seconds, ""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            while time.monotonic() < deadline and not stop.is_set():
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    stage = stages.read_text() if stages.exists() else last
                    if stage != last:
                        last = stage
                        told(stage)
        finally:
            process.kill()
    return None


def install(compiled: Path, bundle: Bundle) -> None:
    """Put what was compiled into its bundle, in place of what is there.

    Raises:
        OSError: the bundle cannot be written to.
    """
    place = bundle.folder / COMPILED
    fresh = Path(tempfile.mkdtemp(prefix=f".{COMPILED}-", dir=bundle.folder))
    try:
        shutil.copytree(compiled, fresh, dirs_exist_ok=True)
        fresh.chmod(0o755)
        if place.exists():
            old = fresh.with_suffix(".old")
            place.rename(old)
            fresh.rename(place)
            shutil.rmtree(old)
        else:
            fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
