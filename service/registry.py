"""The registry: which models are loaded, and whether they may serve."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from service.bundle import BundleError, find_bundles
from service.engine import EngineError
from service.loading import Loading, Model, StaleError, load
from service.metrics import Metrics

_log = structlog.get_logger("registry")

State = Literal["loading", "ready", "failed"]


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
        """Load, verify and warm every model, the default one first. One that fails is told, and does not serve.

        Those that have to be compiled come after the others, whom it would keep waiting.
        """
        as_they_are = replace(self._loading, compiles=False)
        order = sorted(self.names, key=lambda name: name != self.default)
        for name in [x for x in order if not self._load(x, as_they_are, may_wait=self._loading.compiles)]:
            self._load(name, self._loading, may_wait=False)

    def _load(self, name: str, loading: Loading, *, may_wait: bool) -> bool:
        """Load a model; False where it has to be compiled and may wait for that."""
        if self._stopping.is_set():
            return True
        try:
            model = load(self._folders[name], loading, self._stopping)
        except (BundleError, EngineError) as error:
            if may_wait and isinstance(error, StaleError):
                return False
            self._failed(name, str(error))
        except Exception as error:  # a bundle's own code can raise anything
            _log.exception("model cannot be loaded", model=name)
            self._failed(name, f"{type(error).__name__}: {error}")
        else:
            self._ready(name, model)
        return True

    def start(self) -> None:
        """Load all models in a thread."""
        self._loader.start()

    def stop(self) -> None:
        """Leave the loading of models where it is, and wait for its thread."""
        self._stopping.set()
        self._loader.join()

    def _ready(self, name: str, model: Model) -> None:
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

    def _failed(self, name: str, error: str) -> None:
        _log.error("model refused", model=name, error=error)
        with self._lock:
            self._entries[name] = Entry("failed", error=error)
