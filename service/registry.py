"""The registry: which models are loaded, and whether they may serve."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from torch import nn

from service.bundle import Bundle, BundleError, find_bundles
from service.engine import Engine, EngineError
from service.engine.inputs import Inputs
from service.metrics import Metrics

_log = structlog.get_logger("registry")

State = Literal["loading", "ready", "failed"]
_WARM_ROWS = (1, 8)


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

    def __init__(self, folder: Path, device: str, metrics: Metrics, default: str | None = None) -> None:
        """
        Raises:
            BundleError: the folder holds no bundle, or none of the name `default`.
        """
        self._folders = {path.name: path for path in find_bundles(folder)}
        if default is not None and default not in self._folders:
            raise BundleError(f"{folder}: the default model is {default!r}; one of {self.names} is accepted")
        self.default = default or self.names[0]
        self._device = device
        self._metrics = metrics
        self._lock = threading.Lock()
        self._entries = {name: Entry("loading") for name in self._folders}
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
            try:
                model = load(self._folders[name], self._device)
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

    def _failed(self, name: str, error: str) -> None:
        _log.error("model refused", model=name, error=error)
        with self._lock:
            self._entries[name] = Entry("failed", error=error)


def engine_arguments(bundle: Bundle) -> tuple[nn.Module, Inputs, dict[str, Any]]:
    """What `Engine.from_module` takes to make a bundle's engine: the network, example inputs, and options.

    Raises:
        BundleError: the bundle is wrong.
    """
    manifest = bundle.manifest
    options = {
        "task": manifest.task,
        "temperature": manifest.temperature,
        "noise_variance": manifest.noise_variance,
        "interval": manifest.interval,
        "row_axis": [spec.row_axis for spec in manifest.takes],
        "outputs": manifest.outputs,
        "output_row_axis": manifest.output_row_axis,
        "selection": manifest.selection,
    }
    return bundle.load_network(), manifest.for_network(bundle.examples(max(_WARM_ROWS))), options


def load(folder: Path, device: str) -> Model:
    """Load a bundle, make its engine, verify it, and run it once so that the first request finds it warm.

    Raises:
        BundleError: the bundle is wrong.
        EngineError: its network cannot be served.
    """
    bundle = Bundle(folder)
    manifest = bundle.manifest
    network, example_inputs, options = engine_arguments(bundle)
    engine = Engine.from_module(network, example_inputs, device=device, **options)
    examples = engine.as_inputs(example_inputs)
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
