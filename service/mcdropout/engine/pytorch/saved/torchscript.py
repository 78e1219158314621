"""TorchScript networks: what `torch.jit.save` has written, as a module whose code Python runs.

PyTorch's own interpreter shows nobody which functions it calls. Here the same graphs are run step by step, by modules
at the same paths, so that a random call is seen, and belongs to the module that makes it, as in the network as it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.saved.interpreter import RAW, Interpreter, Method, calls_module, operator_of
from mcdropout.engine.pytorch.saved.operators import DROPPING, plain_name

_C: Any = torch._C  # what of it is used here has no types
_FUSED = "aten::_transformer_encoder_layer_fwd"


class _Scripted(nn.Module):
    """A module of a TorchScript network."""

    def __init__(self) -> None:
        super().__init__()
        self._torchscript: dict[str, Callable[..., Any]] = {}

    def forward(self, *inputs: Any, torchscript_method: str = "forward", **named: Any) -> Any:
        return self._torchscript[torchscript_method](self, *inputs, **named)

    def __getattr__(self, name: str) -> Any:
        """Methods that were exported, for code around it that calls them."""
        method = self.__dict__.get("_torchscript", {}).get(name)
        return super().__getattr__(name) if method is None else partial(method, self)

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method; one that stands for calling the module itself is seen as such."""
        if calls_module(method):
            return self(*arguments, torchscript_method=method)
        return self._torchscript[method](self, *arguments)


def scripted_network(path: Path, bare: bool = False) -> nn.Module:
    """The network of a TorchScript file as a module in eval mode.

    Args:
        path: the file.
        bare: whether it may have no dropout.

    Raises:
        UnsupportedModelError: its dropout is gone, or it does what cannot be followed here.
    """
    unit = _C.CompilationUnit()
    origin = _C.import_ir_module(unit, str(path), torch.device("cpu"), {}, False)  # as torch.jit.load does
    return _network(unit, origin, bare)


def scripted_module(saved: bytes, bare: bool = False) -> nn.Module:
    """The same of what `torch.jit.save` wrote into memory.

    Args:
        saved: that.
        bare: whether it may have no dropout, as part of a network, say.
    """
    unit = _C.CompilationUnit()
    return _network(unit, _C.import_ir_module_from_buffer(unit, saved, torch.device("cpu"), {}, False), bare)


def _network(unit: Any, origin: Any, bare: bool) -> nn.Module:
    modules = dict(_modules(origin, ""))
    graphs = [part._get_method(name).graph for part in modules.values() for name in part._method_names()]
    graphs += [function.graph for function in unit.get_functions()]
    _refuse(modules, graphs, bare)
    reader = _Reader(unit, {node.s("name") for node in _nodes(graphs) if node.kind() == "prim::GetAttr"})
    return reader.module(origin, "").eval()


def _modules(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, part
    for name, child in _C.ModuleDict(part).items():
        yield from _modules(child, f"{path}.{name}" if path else name)


def _nodes(blocks: Sequence[Any]) -> Iterator[Any]:
    for block in blocks:
        for node in block.nodes():
            yield node
            yield from _nodes(list(node.blocks()))


def _refuse(modules: Mapping[str, Any], graphs: Sequence[Any], bare: bool) -> None:
    """Tell what has lost its dropout, as far as the file shows; one that is `bare` need not have any."""
    if not modules[""].hasattr("training") and not bare:
        raise UnsupportedModelError(
            "it was frozen (torch.jit.freeze or torch.jit.optimize_for_inference), which takes dropout out; what "
            "torch.jit.script or torch.jit.trace returns, saved as it is, is accepted"
        )
    if hooked := [path for path, part in modules.items() if part._get_forward_hooks() or part._get_forward_pre_hooks()]:
        raise UnsupportedModelError(
            f"{hooked[0] or '(network)'} has forward hooks; a network whose hooks were removed before it was scripted "
            "is accepted"
        )
    nodes = list(_nodes(graphs))
    operators = [operator_of(node) for node in nodes]
    names = {plain_name(operator) for operator in operators}
    traced = not any(node.kind() in ("prim::If", "prim::Loop") for node in nodes)
    if traced and _FUSED in operators:
        raise UnsupportedModelError(
            "it holds a fused transformer layer (aten::_transformer_encoder_layer_fwd), without dropout, as tracing in "
            "eval mode under torch.no_grad() makes it; one that is scripted, or traced in train mode, is accepted"
        )
    drawn = sorted({name.partition(".")[0] for name in names} & set(RAW))
    if traced and drawn:
        raise UnsupportedModelError(
            f"it draws numbers (aten::{drawn[0]}) whatever the mode, as a network does that was traced in train mode; "
            "what eval mode does instead is not in the file; network.eval() traced keeps its dropout, and is accepted, "
            "or network scripted with torch.jit.script"
        )
    if not names & (set(DROPPING) | set(RAW)) and not drawn and not bare:
        raise UnsupportedModelError(
            "it holds no dropout; a network with dropout, scripted by torch.jit.script or traced by torch.jit.trace, "
            "and neither frozen nor optimized, is accepted (scripted where its dropout is its own code's)"
        )


class _Reader:
    """Turns modules of TorchScript into modules of ours."""

    def __init__(self, unit: Any, attributes: set[str]) -> None:
        self._interpreter = Interpreter(unit)
        self._attributes = sorted(attributes)
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def module(self, origin: Any, path: str) -> _Scripted:
        module = _Scripted()
        for name, value in _C.ParameterDict(origin).items():
            module.register_parameter(name, self._parameter(value))
        for name, value in _C.BufferDict(origin).items():
            module.register_buffer(name, self._held(value))
        for name, child in _C.ModuleDict(origin).items():
            module.add_module(name, self.module(child, f"{path}.{name}" if path else name))
        taken = {"training", *module._parameters, *module._buffers, *module._modules}
        for name in self._attributes:
            if origin.hasattr(name) and name not in taken:
                self._set_attribute(module, name, origin.getattr(name), path)
        for name in origin._method_names():
            key = f"{origin._type().qualified_name()}.{name}"
            method = self._interpreter.method(key, origin._get_method(name), path)
            for constant, value in method.constants.items():
                module.register_buffer(constant, value, persistent=False)
            module._torchscript[name] = _bound(method)
        return module

    def _held(self, value: Tensor) -> Tensor:
        """One tensor for all who hold the same, so that they still do when the network is copied or moved."""
        return self._tensors.setdefault(_storage(value), value.detach())

    def _parameter(self, value: Tensor) -> nn.Parameter:
        held = self._held(value)
        if not isinstance(held, nn.Parameter):
            held = self._tensors[_storage(value)] = nn.Parameter(held, value.requires_grad)
        return held

    def _set_attribute(self, module: nn.Module, name: str, value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            module.register_buffer(name, self._held(value), persistent=False)
        elif isinstance(value, torch.ScriptObject):
            raise UnsupportedModelError(
                f"{path or '(network)'} holds an object of a class ({name}), as quantized layers do; modules, tensors, "
                "numbers, texts, and lists, tuples and dicts of them are accepted"
            )
        else:
            setattr(module, name, self._held_in(value))

    def _held_in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._held(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._held_in, value))
        if isinstance(value, dict):
            return {key: self._held_in(each) for key, each in value.items()}
        return value


def _storage(value: Tensor) -> tuple[Any, ...]:
    """What tensors that are the same have in common."""
    return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype, value.numel() or id(value)


def _bound(method: Method) -> Callable[..., Any]:
    """A plain function, which copies of the module share."""

    def call(module: nn.Module, *inputs: Any, **named: Any) -> Any:
        names = method.names
        given = {**dict(zip(names, inputs, strict=False)), **named}
        missing = [name for name in names if name not in given and name not in method.defaults]
        if len(inputs) > len(names) or missing or set(given) - set(names):
            raise ValueError(
                f"it is called with {len(inputs)} inputs by position and {sorted(named)} by name; the network takes "
                f"{list(names)}"
            )
        return method.run(module, *(given[name] if name in given else method.defaults[name] for name in names))

    return call
