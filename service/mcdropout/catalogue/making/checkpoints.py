"""Checkpoints: what `torch.save` and safetensors wrote, read without running any code of it.

Beside tensors a checkpoint holds what its trainer liked, of classes that may not be installed here. Those become
stand-ins, which hold what they were given and do nothing.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mcdropout.catalogue.making.source import SourceError

State = dict[str, torch.Tensor]
"""A state dict: tensors by the paths of parameters and buffers."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params")
_COMPILED = "_orig_mod."  # what torch.compile puts before names
_MOST_NAMED = 4  # of keys, in a message


class StandIn(dict[Any, Any]):
    """What stands for an object of a class that is not loaded: its name, arguments, entries and state."""

    known_as = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.arguments, self.named, self.state = arguments, named, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """As of a list."""
        self[len(self)] = value

    def extend(self, values: Any) -> None:
        """As of a list."""
        for value in values:
            self.append(value)


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, on the CPU; runs no code of it.

    Raises:
        SourceError: it cannot be read.
    """
    if not path.is_file():
        raise SourceError(f"{path} is no file; a checkpoint, .safetensors or what torch.save wrote, is accepted")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            inert: Any = SimpleNamespace(__name__="inert", Unpickler=_Inert, load=lambda file, **_: _Inert(file).load())
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:  # of damaged files, almost anything
        raise SourceError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {str(error).splitlines()[0][:200]}); "
            ".safetensors, or what torch.save wrote, is accepted"
        ) from error


class _Inert(pickle.Unpickler):
    """Reads what torch.load(weights_only=True) takes, and stand-ins for the rest."""

    def find_class(self, module: str, name: str) -> Any:
        from torch import _weights_only_unpickler as safe

        allowed = safe._get_allowed_globals()
        full = f"{module}.{name}"
        if full in allowed:
            return allowed[full]
        if full in ("builtins.set", "builtins.frozenset", "builtins.slice", "builtins.complex"):
            return super().find_class(module, name)
        return type(name, (StandIn,), {"known_as": full})


def weights_in(checkpoint: Any, path: Path) -> State:
    """The state dict in a checkpoint, whatever it is wrapped in.

    Raises:
        SourceError: there is none.
    """
    for found in _candidates(checkpoint):
        state = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
        if state and len(state) * 2 > len(found):  # some keep a count or a version beside them
            return {name.replace(_COMPILED, ""): value for name, value in state.items()}
    raise SourceError(
        f"{path} holds no weights ({_told(checkpoint)}); a state dict, alone or under one of "
        f"{', '.join(_WRAPPERS)}, is accepted"
    )


def _candidates(checkpoint: Any) -> Iterator[Mapping[Any, Any]]:
    if isinstance(checkpoint, StandIn):
        yield dict(_state_of_module(checkpoint, ""))
    elif isinstance(checkpoint, Mapping):
        yield checkpoint
        for name in _WRAPPERS:
            yield from _candidates(checkpoint.get(name))


def _state_of_module(module: StandIn, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The state of a module that was saved whole."""
    state: Mapping[Any, Any] = module.state if isinstance(module.state, Mapping) else {}
    for held in ("_parameters", "_buffers"):
        for name, value in (state.get(held) or {}).items():
            if isinstance(value, torch.Tensor) and name not in (state.get("_non_persistent_buffers_set") or ()):
                yield f"{prefix}{name}", value.detach()
    for name, inner in (state.get("_modules") or {}).items():
        if isinstance(inner, StandIn):
            yield from _state_of_module(inner, f"{prefix}{name}.")


def _told(checkpoint: Any) -> str:
    if isinstance(checkpoint, StandIn):
        return f"an object of {checkpoint.known_as}"
    if isinstance(checkpoint, Mapping):
        return f"the keys {[str(key) for key in list(checkpoint)[:10]]}"
    return type(checkpoint).__name__


def fitted(state: State, wanted: Mapping[str, torch.Tensor], path: Path) -> State:
    """The part of a state dict that is a network's, without what stands before its names (`module.`, `model.`).

    Args:
        state: from the checkpoint.
        wanted: the network's own, of which the names count.
        path: of the checkpoint, for messages.

    Raises:
        SourceError: names are missing, or there are others.
    """
    if set(state) == set(wanted):
        return state
    prefixes = {name[: at + 1] for name in state for at, letter in enumerate(name) if letter == "."}
    for prefix in sorted(prefixes, key=len):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if set(part) == set(wanted):
            return part
    near = max(["", *prefixes], key=lambda prefix: sum(f"{prefix}{name}" in state for name in wanted))
    missing = [f"{near}{name}" for name in sorted(wanted) if f"{near}{name}" not in state]
    more = [name for name in sorted(state) if not name.startswith(near) or name.removeprefix(near) not in wanted]
    raise SourceError(
        f"{path} does not fit the network: it lacks {_some(missing)} and has {_some(more)}; weights of the same "
        "network are accepted, whatever stands before all their names (module., model.)"
    )


def check_shapes(state: State, wanted: Mapping[str, torch.Tensor], path: Path, hint: str) -> None:
    """Raise SourceError where tensors of the same names differ in shape."""
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise SourceError(
                f"{path}: {name} has the shape {list(state[name].shape)}, and the network's {list(value.shape)}; {hint}"
            )


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def write_weights(state: State, path: Path) -> None:
    """Write a state dict as safetensors; tensors that share their memory are written one by one."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, path)
    path.chmod(0o644)  # as what else is in a bundle, which may be served by another user
