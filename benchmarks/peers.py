"""Who the engine is measured against: the plain loop, torch-uncertainty and baal, all in PyTorch's eager mode.

Of a peer only the files that do Monte Carlo dropout are imported, without what the rest of the package needs, from
where it is installed, or from a folder of wheels, or of unpacked wheels.
"""

import copy
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EAGER_LOOP = "eager loop"


@dataclass(frozen=True)
class Moments:
    """Mean and unbiased variance over passes of class probabilities, `[rows, classes]` each."""

    mean: np.ndarray
    variance: np.ndarray
    passes: int


@dataclass(frozen=True)
class Contestant:
    """Someone who answers the request that is timed; `answer` is None where the peer is not installed.

    `answer` takes a seed; those that draw from PyTorch's generator leave it unused.
    """

    name: str
    answer: Callable[[int | None], Moments] | None
    note: str = ""


def contestants(network: nn.Module, x: Tensor, passes: int, folder: Path | None) -> list[Contestant]:
    """The plain loop and the peers, each with its own copy of the network.

    Args:
        network: returns logits `[rows, classes]`.
        x: the rows of the request.
        passes: how many passes it asks for.
        folder: where wheels, or unpacked wheels, of peers that are not installed are.
    """
    loop = with_dropout_on(network)
    found = [Contestant(EAGER_LOOP, lambda _: _looped(loop, x, passes))]
    try:
        module, note = _import("torch_uncertainty", ("methods.mc_dropout", "models.wrappers.mc_dropout"), folder)
    except ModuleNotFoundError as error:
        found += [Contestant(f"torch-uncertainty, on_batch={flag}", None, str(error)) for flag in (True, False)]
    else:
        found += [_torch_uncertainty(module, network, x, passes, flag, note) for flag in (True, False)]
    try:
        module, note = _import("baal", ("bayesian.dropout",), folder)
    except ModuleNotFoundError as error:
        found += [Contestant(f"baal, {how}", None, str(error)) for how in ("replicated in memory", "in a loop")]
    else:
        patched = module.MCDropoutModule(copy.deepcopy(network)).eval()
        found.append(Contestant("baal, replicated in memory", lambda _: _replicated(patched, x, passes), note))
        found.append(Contestant("baal, in a loop", lambda _: _looped(patched, x, passes), note))
    return found


def with_dropout_on(network: nn.Module) -> nn.Module:
    """A copy in eval mode, its dropout modules in train mode."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    return network


@torch.inference_mode()
def loop_probabilities(network: nn.Module, x: Tensor, passes: int) -> Tensor:
    """The plain loop: one forward pass after another, `[passes, rows, classes]`."""
    return torch.stack([network(x) for _ in range(passes)]).softmax(-1)


@torch.inference_mode()
def _looped(network: nn.Module, x: Tensor, passes: int) -> Moments:
    return _moments(loop_probabilities(network, x, passes))


@torch.inference_mode()
def _replicated(network: nn.Module, x: Tensor, passes: int) -> Moments:
    """As baal's `ModelWrapper.predict_on_batch` does with `replicate_in_memory`."""
    logits = network(torch.stack([x] * passes).flatten(0, 1))
    return _moments(logits.unflatten(0, (passes, len(x))).softmax(-1))


def _torch_uncertainty(
    module: ModuleType, network: nn.Module, x: Tensor, passes: int, on_batch: bool, note: str
) -> Contestant:
    wrapped: Any = module.mc_dropout(copy.deepcopy(network), num_estimators=passes, on_batch=on_batch)
    wrapped.eval()

    @torch.inference_mode()
    def answer(_: int | None) -> Moments:
        return _moments(wrapped(x).unflatten(0, (passes, len(x))).softmax(-1))

    return Contestant(f"torch-uncertainty, on_batch={on_batch}", answer, note)


def _moments(probabilities: Tensor) -> Moments:
    return Moments(probabilities.mean(0).numpy(), probabilities.var(0).numpy(), len(probabilities))


def _import(package: str, names: tuple[str, ...], folder: Path | None) -> tuple[ModuleType, str]:
    """The first of some modules of a package that can be had, and the package's version.

    Raises:
        ModuleNotFoundError: the package is not installed, or lacks what the module itself imports.
    """
    reason = ModuleNotFoundError(f"no package {package}")
    for place in _places(package, folder):
        for name in names:
            try:
                module = _import_bare(place, package, name)
            except ModuleNotFoundError as error:
                reason = error
            else:
                versions = [found.version for found in importlib.metadata.distributions(name=package, path=[place])]
                return module, next(iter(versions), "version unknown")
    raise reason


def _places(package: str, folder: Path | None) -> Iterator[str]:
    """What may contain the package: the folder it is installed in, then `folder` and its wheels."""
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        yield str(Path(spec.submodule_search_locations[0]).parent)
    if folder is not None:
        yield str(folder)
        yield from map(str, sorted(folder.glob(f"{package}-*.whl")))


def _import_bare(place: str, package: str, name: str) -> ModuleType:
    """Import `package.name` without running the `__init__` of the packages around it."""
    *outer, last = (package, *name.split("."))
    stubs: dict[str, ModuleType] = {}
    for depth in range(1, len(outer) + 1):
        stub = ModuleType(".".join(outer[:depth]))
        stub.__path__ = ["/".join((place, *outer[:depth]))]
        stubs[stub.__name__] = stub
    before = {loaded: sys.modules.pop(loaded) for loaded in _loaded(package)}
    sys.modules.update(stubs)
    try:
        return importlib.import_module(".".join((*outer, last)))
    finally:
        for loaded in _loaded(package):
            del sys.modules[loaded]
        sys.modules.update(before)


def _loaded(package: str) -> list[str]:
    return [loaded for loaded in sys.modules if loaded == package or loaded.startswith(f"{package}.")]
