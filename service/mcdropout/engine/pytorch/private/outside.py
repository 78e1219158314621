"""What runs outside of a private copy while the copy runs, and would make its answers depend on the user's objects."""

import dis
import functools
import threading
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.private.copies import Copy
from mcdropout.engine.pytorch.private.held import Function, is_instance, is_users, walk
from mcdropout.engine.pytorch.private.restoring import Restore, kept

_CALLED = ("forward", "eval", "train", "state_dict")
_NOT_CALLED = ("__init__", "__repr__", "__init_subclass__")
_NAMING = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")


class _Reached(BaseException):
    """Ends a pass before it touches what is the user's; no `except Exception` on the way takes it for a failure."""


class Watch:
    """Notices that the copy of a network reaches the user's network, or modules that are no part of it.

    A module that is made in a forward pass is none of those: it is another one the next time.

    Args:
        module: the user's network.
    """

    def __init__(self, module: nn.Module) -> None:
        things = list(walk(module))
        self._kind = type(module).__name__
        self._paths = {id(x): path for path, x in things if isinstance(x, nn.Module | Tensor)}
        self._kept: list[Any] = [x for _, x in things]  # so that no other object is given the number of one
        self._ran: set[int] = set()
        self._restores: list[Restore] = []
        self._running: list[nn.Module] = []
        self._suspects: dict[int, str] = {}
        self._message: str | None = None

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """
        Raises:
            UnsupportedModelError: at the end, that something was reached.
        """
        self._message = self._message or self._named_by_functions()
        try:
            if self._message is None:
                yield
        except _Reached:
            pass
        finally:
            if self._message is not None:
                for restore in self._restores:
                    restore()
                raise UnsupportedModelError(self._message) from None

    @contextmanager
    def running(self, copied: Copy) -> Iterator[None]:
        """While a copy of the network runs."""
        own, thread = {id(part) for part in copied.parts.values()}, threading.get_ident()
        self._running, self._suspects = [], {}

        def entering(module: nn.Module, _inputs: Any) -> None:
            if threading.get_ident() == thread and id(module) not in own:
                self._entered(module)

        def leaving(module: nn.Module, _inputs: Any, _output: Any) -> None:
            if threading.get_ident() == thread and self._running and self._running[-1] is module:
                self._running.pop()

        hooks = (register_module_forward_pre_hook(entering), register_module_forward_hook(leaving, always_call=True))
        try:
            with _Reads(self, {id(tensor) for tensor in copied.tensors}):
                yield
        finally:
            for hook in hooks:
                hook.remove()
        self._judge(copied)

    def drawn(self) -> None:
        """A random call was made."""
        if self._running:
            self._suspect(self._running[-1], f"{type(self._running[-1]).__name__}, which draws,")

    def _entered(self, module: nn.Module) -> None:
        if id(module) in self._paths:
            self._reach(f"{self._name(module)} ({type(module).__name__}) of the network that was handed over ran")
        self._running.append(module)
        if id(module) not in self._ran:
            self._restores += kept(buffer for buffer in module._buffers.values() if buffer is not None)
        if any(x is not None for x in (*module._parameters.values(), *module._buffers.values())):
            self._suspect(module, f"{type(module).__name__}, which has weights or buffers,")

    def read(self, tensor: Tensor, own: set[int]) -> None:
        """A function of PyTorch was given a tensor."""
        if id(tensor) in own:
            return
        if id(tensor) in self._paths:
            self._reach(f"{self._name(tensor)} of the network that was handed over was read")
        if isinstance(tensor, nn.Parameter) and not self._running:
            self._suspect(tensor, f"a parameter of shape {list(tensor.shape)}")

    def _suspect(self, thing: nn.Module | Tensor, words: str) -> None:
        """What was there in an earlier pass is not made anew in each."""
        self._kept.append(thing)
        self._suspects.setdefault(id(thing), words)

    def _judge(self, copied: Copy) -> None:
        again = self._suspects.keys() & self._ran
        if again:  # a network may make parts of its own when it first runs
            again -= {id(x) for _, x in walk(copied.module, lambda x: x is not self)}
        for number, words in self._suspects.items():
            if number in again:
                self._reach(f"{words} that is no part of the network, ran in its forward pass")
        self._ran |= self._suspects.keys()

    def _name(self, thing: nn.Module | Tensor) -> str:
        return self._paths[id(thing)] or "the whole"

    def _reach(self, what: str) -> None:
        self._message = self._said(what)
        raise _Reached(self._message)

    def _said(self, what: str) -> str:
        return (
            f"{what}, outside of the engine's copy of {self._kind}, through a global variable, a class, or an object "
            "that cannot be copied; a network is accepted that reaches its modules through its own attributes and "
            "closures"
        )

    def _named_by_functions(self) -> str | None:
        """Functions name global variables; one that holds the user's network could be read and written unnoticed."""
        for function, name, value in globals_named(self._kept):
            if isinstance(value, nn.Module) and id(value) in self._paths:
                where = f"{function.__qualname__} names {name}, and with that {self._name(value)}"
                return self._said(f"{where} of the network that was handed over")
        return None


class _Reads(TorchFunctionMode):
    """Shows a watch what functions of PyTorch are given."""

    def __init__(self, watch: Watch, own: set[int]) -> None:
        super().__init__()
        self._watch = watch
        self._own = own

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, Tensor):
                    self._watch.read(tensor, self._own)
        return func(*args, **(kwargs or {}))


def globals_named(things: Iterable[Any]) -> Iterator[tuple[Function, str, Any]]:
    """The global variables that code of a network names: the function that does, the variable, and its value.

    Looked at are functions among `things`, the methods of the modules among them, but PyTorch's, and what those call in
    their own files.
    """
    waiting, seen = list(_functions_of(things)), set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        for name in _named(function.__code__):
            if name in function.__globals__:
                value = function.__globals__[name]
                yield function, name, value
                if isinstance(value, Function) and value.__globals__ is function.__globals__:
                    waiting.append(value)


def _functions_of(things: Iterable[Any]) -> Iterator[Function]:
    classes: dict[type, None] = {}
    for x in things:
        if isinstance(x, Function):
            yield x
        elif isinstance(x, nn.Module) or is_instance(x):
            classes[type(x)] = None
    for kind in classes:
        for method in _run_methods(kind):
            yield from (x for _, x in walk(method) if isinstance(x, Function))


def _run_methods(kind: type) -> Iterator[Function]:
    """The methods of a class, but PyTorch's, that run when its objects are called, copied, or put into a mode."""
    methods: dict[str, list[Function]] = {}
    for base in filter(is_users, kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Function):
                methods.setdefault(name, []).append(value)
    waiting = [name for name in methods if name in _CALLED or (name.startswith("__") and name not in _NOT_CALLED)]
    seen = set(waiting)
    while waiting:
        for method in methods[waiting.pop()]:
            yield method
            named = {name for code in _codes(method.__code__) for name in code.co_names} & methods.keys()
            waiting += named - seen
            seen |= named


@functools.lru_cache(4096)
def _named(code: types.CodeType) -> frozenset[str]:
    """The global variables that code names, and the functions inside of it."""
    instructions = (instruction for part in _codes(code) for instruction in dis.get_instructions(part))
    return frozenset(instruction.argval for instruction in instructions if instruction.opname in _NAMING)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
