"""Programs: networks, and parts of networks, that are handed over as TorchScript or as exported graphs, in memory.

PyTorch runs them itself, so that nobody sees what they draw, and an exported graph has no train mode. Here they become
modules of ours, as those do that are read from a file.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, UnflattenedModule
from torch.export._unlift import _StatefulGraphModule

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.faults import described
from mcdropout.engine.nesting import nested
from mcdropout.engine.pytorch.private.copies import private_copy
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.pytorch.saved.exported import exported_module, exported_network
from mcdropout.engine.pytorch.saved.torchscript import scripted_module
from mcdropout.engine.pytorch.signature import Signature

_KINDS: Mapping[type, str] = {
    torch.jit.ScriptModule: "TorchScript",
    ExportedProgram: "an exported program",
    _StatefulGraphModule: "an exported program",
    UnflattenedModule: "an exported program, unflattened",
}


def with_its_code(network: Any, inputs: Sequence[Tensor], signature: Signature, bare: bool = False) -> Any:
    """The network as a module whose random calls Python makes; itself, where it is one already.

    Args:
        network: whatever is handed over; left as it is.
        inputs: example inputs, `[rows, ...]` each, with two rows or more.
        signature: how it takes them.
        bare: whether it may have no dropout, because it is given some.

    Raises:
        UnsupportedModelError: it, or a part of it, has lost its dropout or does what cannot be followed here.
    """
    kind = _kind(network)
    if kind:
        return _converted(network, kind, inputs, signature, bare)
    if not isinstance(network, nn.Module):
        return network
    found: dict[int, nn.Module] = {}
    _find(network, "", found)
    return private_copy(network, found).module if found else network  # in a copy, wherever they are held


def _kind(network: Any) -> str | None:
    return next((text for kind, text in _KINDS.items() if isinstance(network, kind)), None)


def _converted(network: Any, kind: str, inputs: Sequence[Tensor], signature: Signature, bare: bool) -> nn.Module:
    try:
        with quiet():
            match network:
                case torch.jit.ScriptModule():
                    return scripted_module(_saved(network), bare)
                case _StatefulGraphModule():
                    return exported_module(network, bare)
                case UnflattenedModule():
                    return exported_network(_exported_again(network, inputs, signature), bare)
                case _:
                    return exported_network(network, bare)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"the network is {kind}, but {error}") from error


def _find(part: nn.Module, path: str, found: dict[int, nn.Module]) -> None:
    """Gather what stands for the outermost programs in a network, by what they are."""
    for name, child in part.named_children():
        place = f"{path}.{name}" if path else name
        if id(child) in found:
            continue
        if not isinstance(child, torch.jit.ScriptModule | _StatefulGraphModule):
            _find(child, place, found)
            continue
        try:
            with quiet():
                if isinstance(child, torch.jit.ScriptModule):
                    found[id(child)] = scripted_module(_saved(child), bare=True)
                else:
                    found[id(child)] = exported_module(child, bare=True)
        except MemoryError:
            raise
        except Exception as error:
            told = str(error) if isinstance(error, UnsupportedModelError) else described(error)
            raise UnsupportedModelError(
                f"{place} is {_kind(child)}, but {told}; the module that it was made of is accepted in its place"
            ) from error
        found[id(child)].train(getattr(child, "training", False))  # a frozen one has no mode


def _saved(module: torch.jit.ScriptModule) -> bytes:
    """What `torch.jit.save` writes of it; only so does it come with all that it calls."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def _exported_again(network: UnflattenedModule, inputs: Sequence[Tensor], signature: Signature) -> ExportedProgram:
    """An unflattened program, flat again; for one row where it was exported for one."""
    rows = torch.export.Dim("rows")
    by_position, by_name = signature.arguments(inputs)
    axes = [{signature.row_axis(index): rows} for index in range(len(inputs))]
    shapes: dict[str, Any] = {"args": tuple(axes)}
    if signature.names is not None:
        shapes["args"], shapes["kwargs"] = nested(signature.names, axes)
    try:
        return torch.export.export(network, by_position, by_name, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the exporter raises
        with suppress(Exception):
            by_position, by_name = signature.arguments([x[:1] for x in inputs])
            return torch.export.export(network, by_position, by_name, strict=False)
        raise UnsupportedModelError(
            f"it cannot be exported again ({described(error)}); the program before torch.export.unflatten is accepted"
        ) from error
