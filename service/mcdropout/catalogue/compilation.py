"""Compilation: a bundle's `compiled/` folder, what it was made of, and the process that makes it.

A network is compiled in a process of its own, with limits: whatever its code or its file does there, crashing and
taking all memory included, the server and its other models are none the worse for it. So a server that serves compiled
bundles never imports PyTorch.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from mcdropout import __version__
from mcdropout.catalogue.bundle import EXAMPLE, MANIFEST, Bundle, BundleError
from mcdropout.digest import digest_of
from mcdropout.engine.errors import EngineError, UnsupportedModelError
from mcdropout.machine import die_with_parent, free_memory, signal_or_status

COMPILED = "compiled"
_SOURCES = "sources.json"
_OUTCOME = "outcome.json"
_MEMORY_SHARE = 0.8
_POLL_SECONDS = 0.1
_MOST_TOLD = 2000  # characters of what a process said before it ended
# Fields of model.yaml that a program depends on; others, such as labels, may change without compiling anew.
_FIELDS = frozenset(
    {"task", "inputs_by", "output", "output_row_axis", "dropout", "model", "network", "arguments", "weights"}
)
_INPUT_FIELDS = frozenset({"name", "shape", "dtype", "row_axis"})

Outcome = Literal["compiled", "refused", "needs_pytorch"]


@dataclass(frozen=True)
class Limits:
    """What compiling a network may take.

    Attributes:
        memory_bytes: memory; None for four fifths of what is free.
        seconds: time.
    """

    memory_bytes: int | None = None
    seconds: float = 900.0


def stale_parts(bundle: Bundle) -> list[str]:
    """Why a bundle's `compiled/` is not of what it holds now; empty where it is."""
    path = bundle.folder / COMPILED / _SOURCES
    if not path.parent.is_dir():
        return [f"{COMPILED}/ is missing"]
    try:
        recorded = json.loads(path.read_bytes())
        made_by, fields, files = recorded["mcdropout"], recorded["fields"], dict(recorded["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{COMPILED}/{_SOURCES} cannot be read ({error})"]
    found = []
    if made_by != __version__:
        found.append(f"it was made by version {made_by}, this is {__version__}")
    if fields != _digest_of_fields(bundle):
        found.append(f"{MANIFEST} changed")
    for name, digest in files.items():
        file = bundle.folder / name
        if not file.is_file():
            found.append(f"{name} is gone")
        elif digest_of(file) != digest:
            found.append(f"{name} changed")
    return found


def compile_bundle(
    bundle: Bundle, into: Path, limits: Limits | None = None, stop: threading.Event | None = None
) -> None:
    """Compile a bundle in a process of its own.

    Args:
        bundle: what to compile.
        into: a folder, made where there is none.
        limits: what it may take.
        stop: ends it when set.

    Raises:
        BundleError: the bundle is wrong, or its network is refused, ends the process, or takes more than the limits.
        UnsupportedModelError: the network runs on PyTorch only, so that there is nothing to write.
    """
    limits = limits or Limits()
    memory = limits.memory_bytes or round(_MEMORY_SHARE * free_memory())
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mcdropout.catalogue.compilation", str(bundle.folder), str(into), str(memory)]
    with tempfile.TemporaryFile() as log:
        status = _run(command, log, limits.seconds, stop or threading.Event())
        log.seek(0)
        told = log.read().decode(errors="replace")
    path = into / _OUTCOME
    if status is None:
        raise BundleError(f"{bundle.folder}: compiling takes longer than the {limits.seconds:g} s that are accepted")
    if not path.exists():
        raise BundleError(
            f"{bundle.folder}: compiling ended {signal_or_status(status)}; {memory / 2**20:.0f} MiB of memory were "
            f"accepted. Its last words: {told.strip()[-_MOST_TOLD:] or '(none)'}"
        )
    outcome = json.loads(path.read_bytes())
    path.unlink()
    if outcome["outcome"] == "refused":
        raise BundleError(outcome["error"])
    if outcome["outcome"] == "needs_pytorch":
        raise UnsupportedModelError(outcome["error"])


def _run(command: list[str], log: IO[bytes], seconds: float, stop: threading.Event) -> int | None:
    """Run a process to its end; its status, or None where it was stopped or took too long."""
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            while time.monotonic() < deadline and not stop.is_set():
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
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


def _digest_of_fields(bundle: Bundle) -> str:
    fields = bundle.manifest.model_dump(mode="json", include=set(_FIELDS))
    fields["takes"] = [spec.model_dump(mode="json", include=set(_INPUT_FIELDS)) for spec in bundle.manifest.takes]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _sources_of(bundle: Bundle) -> dict[str, Any]:
    """What a bundle was compiled from; to be asked for when it has been."""
    folder = bundle.folder.resolve()
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = {Path(file).resolve() for file in loaded if file}
    files |= {folder / name for name in (bundle.manifest.model, bundle.manifest.weights, EXAMPLE) if name}
    if bundle.manifest.is_onnx and bundle.manifest.model is not None:
        files |= set(_external_files(bundle.folder / bundle.manifest.model))
    inside = sorted(path for path in files if path.is_relative_to(folder) and path.is_file())
    return {
        "mcdropout": __version__,
        "fields": _digest_of_fields(bundle),
        "files": {path.relative_to(folder).as_posix(): digest_of(path) for path in inside},
    }


def _external_files(path: Path) -> Iterable[Path]:
    from mcdropout.engine.onnx.read.tensors import external_files

    return (file.resolve() for file in external_files(path))


def _compile(folder: Path, into: Path) -> tuple[Outcome, str | None]:
    from mcdropout.catalogue.network import subject_of
    from mcdropout.engine.compiled import write_compiled
    from mcdropout.engine.preparation import prepare
    from mcdropout.engine.runtimes import Target

    try:
        bundle = Bundle(folder)
        subject = subject_of(bundle)
        prepared = prepare(bundle.manifest.task, subject, Target())
    except (BundleError, EngineError) as error:
        return "refused", str(error)
    except ImportError as error:
        return (
            "refused",
            f"{folder}: compiling it takes {error.name}, which is not installed; "
            "pip install 'mcdropout[torch]' mends it",
        )
    except MemoryError:
        return "refused", f"{folder}: compiling it takes more memory than is accepted"
    try:
        write_compiled(prepared, into)
    except UnsupportedModelError as error:
        return "needs_pytorch", str(error)
    (into / _SOURCES).write_text(json.dumps(_sources_of(bundle), indent=1) + "\n")
    return "compiled", None


def main(folder: str, into: str, memory_bytes: str) -> None:
    """What the process of its own does."""
    die_with_parent()
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, let it be this process that goes
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome, error = _compile(Path(folder), Path(into))
    (Path(into) / _OUTCOME).write_text(json.dumps({"outcome": outcome, "error": error}))
    # At once: what a network's code left running, or what cannot be unloaded, is not waited for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
