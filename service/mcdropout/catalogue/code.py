"""Networks: a bundle's PyTorch network, made by its own code with its own weights, or read from an archive."""

import inspect
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.importing import import_file
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.process_state import put_back
from mcdropout.engine.faults import refusing


def load_network(bundle: Bundle) -> nn.Module:
    """The network with its weights, in eval mode. Runs the bundle's own code.

    Raises:
        BundleError: the code or the weights do not load, or do not fit each other.
        UnsupportedModelError: it is an archive in which no dropout can be found.
    """
    manifest = bundle.manifest
    if manifest.model is not None:
        from mcdropout.engine.pytorch.saved.archives import load_archive

        return load_archive(bundle.inside("model", manifest.model), bare=bool(manifest.dropout.add)).eval()
    assert manifest.network is not None
    assert manifest.weights is not None
    file, _, name = manifest.network.partition(":")
    with put_back():
        network = _build(bundle, bundle.inside("network", file), name)
    weights = bundle.inside("weights", manifest.weights)
    state = _read_weights(weights)
    with refusing(f"{weights}: the weights do not fit {manifest.network}", kind=BundleError):
        network.load_state_dict(state)
    with suppress(Exception):  # an `eval()` of its own may raise, or return nothing; the engine sets modes itself
        network.eval()
    return network


def _build(bundle: Bundle, path: Path, name: str) -> nn.Module:
    code, arguments = import_file(path, bundle.manifest.name), bundle.manifest.arguments
    factory = getattr(code, name, None)
    if factory is None:
        defined = [key for key, value in vars(code).items() if inspect.isclass(value) or inspect.isfunction(value)]
        raise BundleError(f"{path}: it defines no {name!r}; one of {defined} is accepted in network")
    with refusing(f"{path}: {name}(**{arguments}) fails", kind=BundleError):
        network = factory(**arguments)
    if not isinstance(network, nn.Module):
        raise BundleError(f"{path}: {name} returns {type(network).__name__}; a torch.nn.Module is accepted")
    return network


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, from a format that runs no code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise BundleError(f"{path}: cannot be read as weights: {error}") from error
    except Exception as error:  # weights_only raises what the unpickler does
        raise BundleError(
            f"{path}: holds more than tensors, or is damaged; a .safetensors file or a state dict that "
            "torch.load(weights_only=True) reads is accepted"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(f"{path}: holds {type(state).__name__}; a state dict, names to tensors, is accepted")
    return state
