"""The registry: which models are loaded, and whether they may serve; loading, reloading and unloading them."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from mcdropout.catalogue.bundle import named_bundles
from mcdropout.catalogue.loading import Loading, StaleError, load
from mcdropout.catalogue.manifest import MANIFEST, BundleError
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.problems import for_others
from mcdropout.catalogue.stamps import Stamps, stamps_of
from mcdropout.engine import EngineError
from mcdropout.metrics import Metrics

_log = structlog.get_logger("registry")

State = Literal["loading", "ready", "failed", "unloaded"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class RegistryError(Exception):
    """A model was not loaded, reloaded or unloaded; the message says why."""


class UnknownModelError(RegistryError):
    """There is no model of that name, and no bundle to make it of."""


class ConflictError(RegistryError):
    """The state of the model, or of the server, does not allow it."""


class RefusedError(RegistryError):
    """The bundle is wrong, or its network cannot be served. What served before still does."""


@dataclass(frozen=True)
class Entry:
    """What is known of a model.

    Attributes:
        state: "ready" also while it is loaded anew.
        model: what serves, where it is ready.
        error: why it does not serve, where it failed or was unloaded.
        last_error: why it could not be loaded when that was last tried; None where it could.
        stamps: the files of its bundle when it was last read; None before that.
    """

    state: State
    model: Model | None = None
    error: str | None = None
    last_error: str | None = None
    stamps: Stamps | None = None

    @property
    def version(self) -> str | None:
        """Of the model that serves."""
        return None if self.model is None else self.model.version


_NOT_YET = Entry("unloaded", error="it was not loaded yet; loading it brings it")


@dataclass(frozen=True)
class Change:
    """A model that was loaded, reloaded or unloaded.

    Attributes:
        model: its name.
        previous_version: what served before; None where nothing did.
        version: what serves now; None where nothing does.
        seconds: how long it took.
    """

    model: str
    previous_version: str | None
    version: str | None
    seconds: float


class Registry:
    """The models of a folder. Safe from any thread; `load_all` is called once."""

    def __init__(
        self, folder: Path, loading: Loading, metrics: Metrics, default: str | None = None, *, preload: bool = True
    ) -> None:
        """
        Args:
            folder: of the bundles.
            loading: how they are loaded.
            metrics: where readiness and reloads are recorded.
            default: the model that answers where none is named; the first by name where not given.
            preload: whether `load_all` loads every model, or the default one alone.

        Raises:
            BundleError: the folder holds no bundle, or none of the name `default`.
        """
        names, self.default = named_bundles(folder, default)
        self.folder = folder
        self.compiles = loading.compiles
        self._loading = loading
        self._metrics = metrics
        self._preload = preload
        self._first = sorted(names, key=lambda name: name != self.default) if preload else [self.default]
        self._lock = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._changing: dict[str, str] = {}
        self._begun = threading.Event()
        self._stopping = threading.Event()
        self._loader = threading.Thread(target=self.load_all, name="loader", daemon=True)
        for name in names:
            self._set(name, Entry("loading") if name in self._first else _NOT_YET)

    @property
    def entries(self) -> dict[str, Entry]:
        """What is known of each model, in the order of their names."""
        with self._lock:
            return dict(sorted(self._entries.items()))

    @property
    def names(self) -> list[str]:
        """The models' names, in order."""
        return list(self.entries)

    def entry(self, name: str) -> Entry | None:
        """What is known of the model `name`; None if there is none."""
        return self._entries.get(name)

    @property
    def begun(self) -> bool:
        """Whether every model that was there at the start has been seen to."""
        return self._begun.is_set()

    @property
    def ready(self) -> bool:
        """Whether every model that was there at the start has been seen to and the default one may serve."""
        with self._lock:
            return self.begun and self._entries[self.default].state == "ready"

    def load_all(self) -> None:
        """Load, verify and warm what is to be loaded at the start, the default model first. One that fails is logged.

        Those that have to be compiled come after the others, whom it would keep waiting.
        """
        as_they_are = replace(self._loading, compiles=False)
        for name in [x for x in self._first if not self._load_first(x, as_they_are, may_wait=self._loading.compiles)]:
            self._load_first(name, self._loading, may_wait=False)
        self._begun.set()

    def _load_first(self, name: str, loading: Loading, *, may_wait: bool) -> bool:
        """Load a model; False where it has to be compiled and may wait for that."""
        if self._stopping.is_set():
            return True
        if not loading.compiles:  # what has to be compiled was begun with before
            _log.info("loading", model=name)
        try:
            self._try(name, Entry("loading"), loading)
        except RefusedError as error:
            if may_wait and isinstance(error.__cause__, StaleError):
                return False
            self._failed(name, error)
        except ConflictError:  # it is the end
            pass
        return True

    def start(self) -> None:
        """Load all models in a thread."""
        self._loader.start()

    def stop(self) -> None:
        """Leave the loading of models where it is, and wait for those who do it. Nothing is loaded from then on."""
        self._stopping.set()
        self._loader.join()
        with self._lock:
            self._lock.wait_for(lambda: not self._changing)

    def reload(self, name: str) -> Change:
        """Read a bundle again, and let what it holds now serve in the place of what served; or load one that failed.

        Requests that began with the old model end with it.

        Raises:
            UnknownModelError: there is no such model.
            ConflictError: it is being changed already, or unloaded; or the server is stopping.
            RefusedError: it cannot be loaded; what served before still does.
        """
        with self._change(name, "reloaded"):
            entry = self._known(name)
            if entry.state == "unloaded":
                raise ConflictError(f"the model {name!r} is unloaded; one that is loaded can be reloaded")
            return self._renew(name, entry)

    def load(self, name: str) -> Change:
        """Load a bundle that is new in the folder, was unloaded, or failed before.

        Raises:
            UnknownModelError: there is no such bundle.
            ConflictError: it is loaded already, or being changed; or the server is stopping.
            RefusedError: it cannot be loaded.
        """
        check_name(name)
        with self._change(name, "loaded"):
            entry = self.entry(name) or Entry("loading")
            if entry.model is not None:
                raise ConflictError(
                    f"the model {name!r} is loaded already, version {entry.version!r}; reloading reads it again"
                )
            if not self._has_bundle(name):
                if name != self.default:
                    self._set(name, None)
                raise UnknownModelError(
                    f"there is no bundle {name!r} in {self.folder}; a folder of that name with a {MANIFEST} is accepted"
                )
            entry = replace(entry, state="loading", error=None)
            self._set(name, entry)
            return self._renew(name, entry)

    def appear(self, name: str) -> None:
        """A bundle is new in the folder: load it, or, where that is left for later, know of it.

        Raises:
            As `load` does.
        """
        if self._preload:
            self.load(name)
        else:
            self._set(name, _NOT_YET)

    def unload(self, name: str) -> Change:
        """Let a model serve no more. Requests that began with it end with it; then its memory is free.

        Where its bundle is gone from the folder, nothing is known of it afterwards.

        Raises:
            UnknownModelError: there is no such model.
            ConflictError: it is the default one, unloaded already, or being changed; or the server is stopping.
        """
        started = time.perf_counter()
        with self._change(name, "unloaded"):
            entry, kept = self._known(name), self._has_bundle(name)
            if name == self.default:
                raise ConflictError(
                    f"the model {name!r} is the default one, which answers where no model is named; any other can be "
                    "unloaded"
                )
            if kept and entry.state == "unloaded":
                raise ConflictError(f"the model {name!r} is unloaded already; one that is loaded can be unloaded")
            unloaded = Entry("unloaded", error="it was unloaded; loading it again brings it back", stamps=entry.stamps)
            self._set(name, unloaded if kept else None)
        _log.info("model unloaded", model=name, version=entry.version)
        return Change(name, entry.version, None, time.perf_counter() - started)

    def _has_bundle(self, name: str) -> bool:
        return (self.folder / name / MANIFEST).is_file()

    def _known(self, name: str) -> Entry:
        entry = self.entry(name)
        if entry is None:
            raise UnknownModelError(f"there is no model {name!r}; one of {self.names} is accepted")
        return entry

    @contextmanager
    def _change(self, name: str, how: str) -> Iterator[None]:
        """Nobody else changes the model meanwhile."""
        with self._lock:
            self._check_running(name)
            entry = self._entries.get(name)
            if doing := self._changing.get(name, "loaded" if entry and entry.state == "loading" else None):
                raise ConflictError(
                    f"the model {name!r} is being {doing}; when that is done, it can be {how}: try again then"
                )
            self._changing[name] = how
        try:
            yield
        finally:
            with self._lock:
                del self._changing[name]
                self._lock.notify_all()

    def _check_running(self, name: str) -> None:
        if self._stopping.is_set():
            raise ConflictError(f"the model {name!r} stays as it is: the server is stopping")

    def _renew(self, name: str, entry: Entry) -> Change:
        """Load a model in the place of what is there."""
        started = time.perf_counter()
        _log.info("loading", model=name, version=entry.version)
        try:
            model = self._try(name, entry, self._loading)
        except RefusedError as error:
            self._metrics.reloads.labels(name, "refused").inc()
            self._failed(name, error)
            raise
        self._metrics.reloads.labels(name, "succeeded").inc()
        return Change(name, entry.version, model.version, time.perf_counter() - started)

    def _try(self, name: str, entry: Entry, loading: Loading) -> Model:
        """Load a model, and let it serve.

        Raises:
            ConflictError: the server is stopping.
            RefusedError: from what it was.
        """
        started = time.perf_counter()
        stamps = stamps_of(self.folder / name)
        self._set(name, replace(entry, stamps=stamps))
        try:
            model = load(self.folder / name, loading, self._stopping)
        except (BundleError, EngineError) as error:
            self._check_running(name)
            raise RefusedError(for_others(str(error), self.folder)) from error
        except Exception as error:  # a bundle's own code can raise anything
            _log.exception("model cannot be loaded", model=name)
            raise RefusedError(for_others(f"{type(error).__name__}: {error}", self.folder)) from error
        self._set(name, Entry("ready", model, stamps=stamps))
        program = model.engine.program
        _log.info(
            "model ready",
            model=name,
            seconds=round(time.perf_counter() - started, 3),
            version=model.version,
            previous_version=entry.version,
            strategy=program.strategy,
            runtime=program.runtime,
            device=program.device,
            sites=len(model.engine.sites),
            sites_off=len(model.engine.sites_off),
        )
        return model

    def _failed(self, name: str, refused: RefusedError) -> None:
        entry, error = self._known(name), str(refused)
        _log.error("model refused", model=name, error=str(refused.__cause__ or refused), serving=entry.version)
        if entry.model is None:
            self._set(name, Entry("failed", error=error, last_error=error, stamps=entry.stamps))
        else:
            self._set(name, replace(entry, last_error=error))

    def _set(self, name: str, entry: Entry | None) -> None:
        with self._lock:
            if entry is None:
                self._entries.pop(name, None)
                self._metrics.forget(name)
                return
            self._entries[name] = entry
            if entry.state == "unloaded":
                self._metrics.forget_readiness(name)
            else:
                self._metrics.model_ready.labels(name).set(int(entry.state == "ready"))


def is_name(name: str) -> bool:
    """Whether a model may be called that; a name is also a folder's, and leads nowhere else."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise UnknownModelError where no model may be called that."""
    if not is_name(name):
        raise UnknownModelError(
            f"{name!r} is no model's name; up to 100 letters, digits, '.', '_' and '-', of which the first is a letter "
            "or a digit, are accepted"
        )
