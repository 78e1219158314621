"""Random calls: every function of PyTorch that draws, seen while a network runs, and what a mask does in its place.

`RandomCalls` is a `TorchFunctionMode`. It sees each call of a drawing function, whoever makes it: an `nn.Dropout`, a
plain `F.dropout` in a `forward`, attention, a recurrent layer between its layers, or code that draws numbers of its
own. It asks for a mask and does the rest of the call's work itself; nothing is drawn.
"""

import types
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.mapping import depth, mapped, maps, sizes
from mcdropout.engine.pytorch.random_call import MOST_CALLS, Call, EndlessCallsError, Mask, ModuleStack, Order

_Handler = Callable[["RandomCalls", Any, tuple[Any, ...], dict[str, Any]], Any]
_HANDLERS: dict[Any, _Handler] = {}


class RandomCalls(TorchFunctionMode):
    """While it is entered, `answer` gives the mask of every random call."""

    def __init__(
        self, stack: Callable[[], ModuleStack], answer: Callable[[Call], Mask], order: Order | None = None
    ) -> None:
        super().__init__()
        self._stack = stack
        self._answer = answer
        self._order = order
        self._following: Counter[str] = Counter()  # of each module, the number of the next call
        self._outside: int | None = None
        self.in_attention = False
        self.padded_steps = 0

    def __enter__(self) -> Self:
        if self._outside is None:
            self._outside = depth()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # An operator of `torch.library` may come as the overload that was chosen, or as all of its overloads.
        handler = _HANDLERS.get(func)
        if handler is None and isinstance(func, OpOverload):
            handler = _HANDLERS.get(func.overloadpacket)
        if handler is None:  # almost always
            return func(*args, **kwargs) if kwargs else func(*args)
        return handler(self, func, tuple(args), kwargs or {})

    def ask(
        self,
        kind: str,
        p: float | None,
        active: bool,
        shape: Sequence[int],
        data: Tensor | None = None,
        injected: bool = False,
        generator: torch.Generator | None = None,
    ) -> Mask:
        """The mask of the call that is being handled, which would draw from `generator`, or else from PyTorch's own."""
        stack = self._stack()
        path = stack.paths[-1] if stack.paths else ""
        if data is not None and data.is_nested:
            raise UnsupportedModelError(
                f"{path or '(network)'} drops from a nested tensor, whose rows differ in length; dropout on a tensor "
                "in which they are padded is accepted"
            )
        running = maps(self._outside or 0)
        whole = (*sizes(running), *shape)
        number = self._following[path]
        if number == MOST_CALLS:
            raise EndlessCallsError(
                f"{path or '(network)'} makes more than {MOST_CALLS} random calls in a pass for some of the numbers "
                "that it may draw; a loop that ends whatever is drawn is accepted"
            )
        if self._order is not None:
            number = self._order.number(path, number, (kind, p, len(whole)), whole)
        call = Call(stack, number, kind, p, active, whole, None if running else data, injected, generator)
        self._following[path] = number + 1
        mask = self._answer(call)
        if isinstance(mask, tuple):
            factor, summand = mask
            return mapped(factor, running, path), mapped(summand, running, path)
        return None if mask is None else mapped(mask, running, path)

    def packed(self) -> PackedSequence | None:
        """The packed sequence that the running module was given, if it was."""
        return next((x for x in self._stack().inputs if isinstance(x, PackedSequence)), None)


def handles(*functions: Any) -> Callable[[_Handler], _Handler]:
    """Register what is done in the place of functions that draw: PyTorch's own, or operators of `torch.library`.

    The handler gets the mode, the function and its arguments. It asks the mode for a mask (`ask`), and returns what the
    function would with that for its dropout (`apply_mask`).
    """

    def register(handler: _Handler) -> _Handler:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


def seen_through(function: Any) -> Any:
    """`function`, with nobody asked to take over before its own code has run.

    PyTorch hands such a function to the mode as a whole, which would not see the draws inside.
    """
    asked = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    namespace = {**function.__globals__, **dict.fromkeys(asked, lambda *_: False)}
    inner = types.FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
    inner.__kwdefaults__ = function.__kwdefaults__
    return inner
