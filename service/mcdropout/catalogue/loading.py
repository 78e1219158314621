"""Loading: from a bundle's folder to a model that may serve."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.compilation import CompileLimits, compile_bundle, install
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.model import Model, model_of
from mcdropout.catalogue.network import subject_of
from mcdropout.catalogue.provenance import stale_parts
from mcdropout.catalogue.stamps import Stamps, check_unchanged, sources, stamps_of
from mcdropout.engine import Engine, UnsupportedModelError
from mcdropout.engine.errors import CompiledError
from mcdropout.engine.runtimes import Target
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.threads import thread_count
from mcdropout.machine import lock

_log = structlog.get_logger("loading")

_POLL_SECONDS = 0.1
# Compiling a network, or preparing one on PyTorch, takes all cores and much memory: one at a time.
_preparing = threading.Lock()


class StaleError(BundleError):
    """A bundle is not compiled, or has changed since, and may not be compiled now."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded.

    Attributes:
        device: where PyTorch networks run: "cpu", "cuda" or "cuda:N".
        sessions: how ONNX Runtime runs the others.
        compiles: whether a bundle that is not compiled, or has changed since, may be compiled now.
        limits: what that may take.
    """

    device: str = "cpu"
    sessions: SessionOptions = field(default_factory=SessionOptions)
    compiles: bool = True
    limits: CompileLimits = field(default_factory=CompileLimits)


def load(folder: Path, loading: Loading, stop: threading.Event | None = None) -> Model:
    """Load a bundle, make its engine, verify it, and run it once so that the first request finds it warm.

    Nothing that is done to the folder later touches the model. Safe from any thread.

    Args:
        folder: the bundle.
        loading: how.
        stop: ends the compiling of it when set.

    Raises:
        StaleError: it would have to be compiled, and `loading` does not allow it.
        BundleError: the bundle is wrong, or was changed while it was loaded.
        EngineError: its network cannot be served.
    """
    before = sources(stamps_of(folder))
    bundle = Bundle(folder)
    engine = _engine_of(bundle, before, loading, stop)
    check_unchanged(bundle.folder, before)
    return model_of(bundle, engine)


def _engine_of(bundle: Bundle, before: Stamps, loading: Loading, stop: threading.Event | None) -> Engine:
    """A bundle's engine, compiled where that can be; compiled anew, and kept, where the bundle has changed."""
    if loading.device != "cpu" and bundle.manifest.needs_pytorch:
        with _one_at_a_time(bundle, stop):
            return _on_pytorch(bundle, loading)
    stale = stale_parts(bundle)
    changed = bool(stale)
    if not stale:
        try:
            return _load_copy(bundle, loading)
        except CompiledError as error:
            stale = [str(error)]
    if bundle.manifest.is_compiled_alone:
        raise BundleError(
            f"{bundle.folder}: {'; '.join(stale)}, and it holds no network to compile; what Engine.save_bundle writes "
            "is accepted"
        )
    if not loading.compiles:
        raise StaleError(
            f"{bundle.folder}: it has to be compiled ({'; '.join(stale)}), which --no-compile forbids; "
            f"`mcdropout compile {bundle.folder}` does it"
        )
    with _one_at_a_time(bundle, stop), tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
        if changed and not stale_parts(bundle):  # another worker did it meanwhile
            return _load_copy(bundle, loading)
        _log.info("compiling", model=bundle.manifest.name, because="; ".join(stale))
        begun = time.monotonic()
        try:
            compile_bundle(bundle, Path(folder), loading.limits, stop)
            _log.info("compiled", model=bundle.manifest.name, seconds=round(time.monotonic() - begun, 3))
        except UnsupportedModelError as error:
            _log.info("model runs on PyTorch", model=bundle.manifest.name, because=str(error))
            return _on_pytorch(bundle, loading)
        # Before it is kept: where a file was replaced after it was read, its new hash would stand for the old network.
        check_unchanged(bundle.folder, before)
        engine = _load(Path(folder), bundle, loading)
        try:
            install(Path(folder), bundle)
        except OSError as error:
            _log.info("compiled model is not kept", model=bundle.manifest.name, because=str(error))
    return engine


@contextmanager
def _one_at_a_time(bundle: Bundle, stop: threading.Event | None) -> Iterator[None]:
    """In this process and, where the file system has locks, among all that serve the same folder of models."""
    while not _preparing.acquire(timeout=_POLL_SECONDS):
        _check_not_stopped(bundle, stop)
    try:
        descriptor = os.open(bundle.folder.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # the file system has none: then several processes may do the same work
                while not lock(descriptor):
                    _check_not_stopped(bundle, stop)
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)
    finally:
        _preparing.release()


def _check_not_stopped(bundle: Bundle, stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise BundleError(f"{bundle.folder}: the server stopped before it was this bundle's turn")


def _load_copy(bundle: Bundle, loading: Loading) -> Engine:
    """The engine of a bundle's `compiled/`, from a copy of it that nobody else has.

    ONNX Runtime maps weights into memory: were they overwritten in place while they serve, answers would change, and
    the process end by SIGBUS where the file got shorter.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
            copy = Path(folder) / COMPILED
            shutil.copytree(bundle.folder / COMPILED, copy)
            return _load(copy, bundle, loading)
    except OSError as error:
        _log.warning(
            "model is read in place, where it must not be overwritten", model=bundle.manifest.name, because=str(error)
        )
    return _load(bundle.folder / COMPILED, bundle, loading)


def _load(folder: Path, bundle: Bundle, loading: Loading) -> Engine:
    return Engine.load(folder, bundle.manifest.reading, sessions=loading.sessions)


def _on_pytorch(bundle: Bundle, loading: Loading) -> Engine:
    """The engine of a bundle whose network runs in this process."""
    if bundle.manifest.needs_pytorch:
        import torch

        torch.set_num_threads(thread_count())
    target = Target(loading.device, options=loading.sessions)
    target.check()
    return Engine.prepare(subject_of(bundle), bundle.manifest.reading, target)
