"""What runs outside of a private copy while the copy runs, and would make its answers depend on the user's objects."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.private.copies import Copy
from mcdropout.engine.pytorch.private.held import walk
from mcdropout.engine.pytorch.private.restoring import Restore, kept
from mcdropout.engine.pytorch.private.variables import globals_named


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
        for variable in globals_named(self._kept):
            value = variable.value
            if isinstance(value, nn.Module) and id(value) in self._paths:
                where = f"{variable.function.__qualname__} names {variable.name}, and with that {self._name(value)}"
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
