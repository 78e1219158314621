"""The registry: which models are loaded, and whether they may serve."""

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from service.bundle import Bundle, BundleError, find_bundles
from service.compilation import COMPILED, Limits, compile_bundle, install, stale_parts
from service.engine import Engine, EngineError, UnsupportedModelError
from service.engine.errors import CompiledError
from service.engine.runtimes.sessions import SessionOptions
from service.engine.subject import Target
from service.metrics import Metrics
from service.subjects import subject_of

_log = structlog.get_logger("registry")

State = Literal["loading", "ready", "failed"]
_WARM_ROWS = (1, 8)


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
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Model:
    """A model that may serve."""

    bundle: Bundle
    engine: Engine

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def version(self) -> str:
        return self.bundle.manifest.version


@dataclass(frozen=True)
class Entry:
    """What is known of a model: `model` where it is ready, `error` where it failed."""

    state: State
    model: Model | None = None
    error: str | None = None


class Registry:
    """The models of a folder. Reading it is safe from any thread; `load_all` is called once."""

    def __init__(self, folder: Path, loading: Loading, metrics: Metrics, default: str | None = None) -> None:
        """
        Raises:
            BundleError: the folder holds no bundle, or none of the name `default`.
        """
        self._folders = {path.name: path for path in find_bundles(folder)}
        if default is not None and default not in self._folders:
            raise BundleError(f"{folder}: the default model is {default!r}; one of {self.names} is accepted")
        self.default = default or self.names[0]
        self._loading = loading
        self._metrics = metrics
        self._lock = threading.Lock()
        self._entries = {name: Entry("loading") for name in self._folders}
        self._stopping = threading.Event()
        self._loader = threading.Thread(target=self.load_all, name="loader", daemon=True)
        for name in self._folders:
            metrics.model_ready.labels(name).set(0)

    @property
    def names(self) -> list[str]:
        """The models' names, in order."""
        return sorted(self._folders)

    def entry(self, name: str) -> Entry | None:
        """What is known of the model `name`; None if there is none."""
        with self._lock:
            return self._entries.get(name)

    @property
    def ready(self) -> bool:
        """Whether every model has been seen to and the default one may serve."""
        with self._lock:
            loading = any(entry.state == "loading" for entry in self._entries.values())
            return not loading and self._entries[self.default].state == "ready"

    def load_all(self) -> None:
        """Load, verify and warm every model, the default one first. One that fails is told, and does not serve."""
        for name in sorted(self.names, key=lambda name: name != self.default):
            if self._stopping.is_set():
                return
            try:
                model = load(self._folders[name], self._loading, self._stopping)
            except (BundleError, EngineError) as error:
                self._failed(name, str(error))
            except Exception as error:  # a bundle's own code can raise anything
                _log.exception("model cannot be loaded", model=name)
                self._failed(name, f"{type(error).__name__}: {error}")
            else:
                with self._lock:
                    self._entries[name] = Entry("ready", model)
                self._metrics.model_ready.labels(name).set(1)
                program = model.engine.program
                _log.info(
                    "model ready",
                    model=name,
                    version=model.version,
                    strategy=program.strategy,
                    runtime=program.runtime,
                    device=program.device,
                    sites=len(model.engine.sites),
                    sites_off=len(model.engine.sites_off),
                )

    def start(self) -> None:
        """Load all models in a thread."""
        self._loader.start()

    def stop(self) -> None:
        """Leave the loading of models where it is, and wait for its thread."""
        self._stopping.set()
        self._loader.join()

    def _failed(self, name: str, error: str) -> None:
        _log.error("model refused", model=name, error=error)
        with self._lock:
            self._entries[name] = Entry("failed", error=error)


def load(folder: Path, loading: Loading, stop: threading.Event | None = None) -> Model:
    """Load a bundle, make its engine, verify it, and run it once so that the first request finds it warm.

    Args:
        folder: the bundle.
        loading: how.
        stop: ends the compiling of it when set.

    Raises:
        BundleError: the bundle is wrong.
        EngineError: its network cannot be served.
    """
    bundle = Bundle(folder)
    manifest = bundle.manifest
    engine = _engine_of(bundle, loading, stop)
    examples = bundle.examples(max(_WARM_ROWS))
    for count in _WARM_ROWS:
        rows = [x[np.arange(count) % len(x)] for x in examples]
        prediction = engine.predict(manifest.for_network(rows), passes=max(1, manifest.passes.default), seed=0)
    classes = prediction.mean.shape[1:2]
    if manifest.task == "classification" and manifest.labels is not None and (len(manifest.labels),) != classes:
        raise BundleError(
            f"{folder / 'model.yaml'}: labels has {len(manifest.labels)} entries; the network's {classes[0]} classes "
            "are accepted"
        )
    return Model(bundle, engine)


def _engine_of(bundle: Bundle, loading: Loading, stop: threading.Event | None) -> Engine:
    """A bundle's engine, compiled where that can be; compiled anew, and kept, where the bundle has changed."""
    if loading.device != "cpu" and not bundle.manifest.is_onnx:
        return _on_pytorch(bundle, loading)
    stale = stale_parts(bundle)
    if not stale:
        try:
            return _load(bundle.folder / COMPILED, bundle, loading)
        except CompiledError as error:
            stale = [str(error)]
    if not loading.compiles:
        raise BundleError(
            f"{bundle.folder}: it has to be compiled ({'; '.join(stale)}), which --no-compile forbids; "
            f"`mcdropout compile {bundle.folder}` does it"
        )
    _log.info("model is compiled", model=bundle.manifest.name, because="; ".join(stale))
    with tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
        try:
            compile_bundle(bundle, Path(folder), loading.limits, stop)
        except UnsupportedModelError as error:
            _log.info("model runs on PyTorch", model=bundle.manifest.name, because=str(error))
            return _on_pytorch(bundle, loading)
        engine = _load(Path(folder), bundle, loading)
        try:
            install(Path(folder), bundle)
        except OSError as error:
            _log.info("compiled model is not kept", model=bundle.manifest.name, because=str(error))
    return engine


def _load(folder: Path, bundle: Bundle, loading: Loading) -> Engine:
    manifest = bundle.manifest
    return Engine.load(
        folder,
        manifest.task,
        temperature=manifest.temperature,
        noise_variance=manifest.noise_variance,
        interval=manifest.interval,
        sessions=loading.sessions,
    )


def _on_pytorch(bundle: Bundle, loading: Loading) -> Engine:
    """The engine of a bundle whose network runs in this process."""
    target = Target(loading.device, options=loading.sessions)
    target.check()
    return Engine.prepare(subject_of(bundle), bundle.manifest.reading, target)
