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
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import (
    ALPHA,
    ATTENTION,
    BERNOULLI,
    CHANNEL,
    DROPCONNECT,
    ELEMENT,
    FEATURE_ALPHA,
    NORMAL,
    UNIFORM,
)
from mcdropout.engine.pytorch.attention import attention, weights_shape
from mcdropout.engine.pytorch.drawn import Drawn
from mcdropout.engine.pytorch.mapping import depth, is_mapped, mapped, maps, sizes
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
            number = self._order.number(path, number, (kind, p, len(whole)))
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


# Dropout: the kind, and whether `training` is on where the call does not say.
_DROPOUTS: dict[Any, tuple[str, bool]] = {
    F.dropout: (ELEMENT, True),
    F.dropout1d: (CHANNEL, True),
    F.dropout2d: (CHANNEL, True),
    F.dropout3d: (CHANNEL, True),
    F.alpha_dropout: (ALPHA, False),
    F.feature_alpha_dropout: (FEATURE_ALPHA, False),
    torch.dropout: (ELEMENT, True),
    torch.dropout_: (ELEMENT, True),
    torch.native_dropout: (ELEMENT, True),
    torch.feature_dropout: (CHANNEL, True),
    torch.feature_dropout_: (CHANNEL, True),
    torch.alpha_dropout: (ALPHA, True),
    torch.alpha_dropout_: (ALPHA, True),
    torch.feature_alpha_dropout: (FEATURE_ALPHA, True),
    torch.feature_alpha_dropout_: (FEATURE_ALPHA, True),
}
_INPLACE = {torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_}
# The dropout of these functions takes an input without a row dimension where it has this many dimensions.
_UNBATCHED_DIMENSIONS = {F.dropout1d: 2, F.dropout3d: 4}


@handles(*_DROPOUTS)
def _dropout(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kind, on = _DROPOUTS[func]
    x: Tensor = args[0] if args else kwargs["input"]
    p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    active = args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", on))
    shape: tuple[int, ...] = tuple(x.shape)
    if kind in (CHANNEL, FEATURE_ALPHA):
        leading = 1 if x.dim() == _UNBATCHED_DIMENSIONS.get(func) else 2
        shape = (*x.shape[:leading], *[1] * (x.dim() - leading))
    if kind == ELEMENT and isinstance(x, nn.Parameter):
        kind = DROPCONNECT
    if kind == ELEMENT and mode.in_attention:
        kind = ATTENTION
    mask = mode.ask(kind, p, active is not False and p > 0.0, shape, x)
    result = apply_mask(x, mask)
    if func is torch.native_dropout:
        return result, mask.expand_as(x) != 0 if isinstance(mask, Tensor) else torch.ones_like(x, dtype=torch.bool)
    if func in _INPLACE or (len(args) > 3 and args[3]) or kwargs.get("inplace", False):
        return x.copy_(result) if result is not x else x
    # What is made of a parameter is none, masked or not: wrappers that drop weights assign it in the parameter's place.
    return x.view_as(x) if isinstance(result, nn.Parameter) else result


def apply_mask(x: Tensor, mask: Mask) -> Tensor:
    """What is left of `x` under a mask."""
    if mask is None:
        return x
    if isinstance(mask, tuple):
        factor, summand = mask
        return x * _as(x, factor) + _as(x, summand)
    return x * _as(x, mask)


def _as(x: Tensor, mask: Tensor) -> Tensor:
    """A mask in the dtype of what it is put on; exporters write down more of `to` than it does."""
    return mask if mask.dtype == x.dtype else mask.to(x.dtype)


@handles(F.scaled_dot_product_attention)
def _attention(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    p = float(given.pop("dropout_p", 0.0))
    query = given["query"]
    shape = weights_shape(query, given["key"], given["value"], given.get("attn_mask"), given.get("enable_gqa", False))
    mask = mode.ask(ATTENTION, p, p > 0.0, shape, query)
    if mask is None:
        out: Tensor = func(**given, dropout_p=0.0)
        return out
    assert isinstance(mask, Tensor)
    return attention(mask, **given)


def _sees_through(function: Any) -> Any:
    """`function`, with nobody asked to take over before its own code has run.

    PyTorch hands such a function to the mode as a whole, which would not see the draws inside.
    """
    namespace = {**function.__globals__, "has_torch_function": lambda _: False}
    inner = types.FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
    inner.__kwdefaults__ = function.__kwdefaults__
    return inner


_multi_head_attention = _sees_through(F.multi_head_attention_forward)


@handles(F.multi_head_attention_forward)
def _composite(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.in_attention = True
    try:
        with mode:
            return _multi_head_attention(*args, **kwargs)
    finally:
        mode.in_attention = False


@handles(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def _recurrent(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A recurrent layer, layer by layer, with a mask between each and the next."""
    is_packed = not isinstance(args[3], bool)
    first = 3 if is_packed else 2
    data, batch_sizes = args[0], args[1] if is_packed else None
    state, weights, biases, layers, p, training, both_ways = args[first - 1 : first + 6]
    batch_first = () if is_packed else (args[8],)
    if batch_sizes is None or not (torch.compiler.is_exporting() or is_mapped(batch_sizes)):
        rows = data.shape[0 if args[8] else 1] if batch_sizes is None else int(batch_sizes[0])
        _check_rows_of_state(state[0] if isinstance(state, tuple | list) else state, rows)
    if layers == 1 or p == 0.0:
        return func(*args, **kwargs)
    directions, each = (2 if both_ways else 1), len(weights) // layers
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        part = slice(layer * directions, (layer + 1) * directions)
        start = tuple(x[part] for x in state) if isinstance(state, tuple | list) else state[part]
        own = weights[layer * each : (layer + 1) * each]
        sizes = () if batch_sizes is None else (batch_sizes,)
        data, *end = func(data, *sizes, start, own, biases, 1, 0.0, False, both_ways, *batch_first)
        ends.append(tuple(end))
        if layer < layers - 1:
            data = _between_layers(mode, data, batch_sizes, float(p), training)
    return (data, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


def _check_rows_of_state(state: Tensor, rows: Any) -> None:
    """Refuse a state `[layers, rows, units]` of other rows than the input, outside of which PyTorch reads memory.

    The modules check that, but not the functions, which a traced network calls.
    """
    held = state.shape[1]
    if type(held) is int and type(rows) is int and held != rows:
        raise UnsupportedModelError(
            f"a recurrent layer begins in a state of {held} row{'' if held == 1 else 's'} and is given {rows}; a state "
            "of as many rows as the input has, as torch.zeros(layers, x.shape[0], units) makes it, is accepted"
        )


def _between_layers(mode: RandomCalls, data: Tensor, batch_sizes: Tensor | None, p: float, training: bool) -> Tensor:
    if batch_sizes is None:
        return apply_mask(data, mode.ask(ELEMENT, p, training, data.shape, data))
    steps, rows = max(len(batch_sizes), mode.padded_steps), int(batch_sizes[0])
    mask = mode.ask(ELEMENT, p, training, (steps, rows, data.shape[-1]))
    if mask is None:
        return data
    assert isinstance(mask, Tensor)
    packed = mode.packed()
    if packed is None:
        raise UnsupportedModelError(
            "a recurrent layer with dropout between its layers gets sequences packed in an order that is not known; "
            "a layer that is called with a PackedSequence, as layer(packed), is accepted"
        )
    if packed.sorted_indices is not None:
        mask = mask.index_select(1, packed.sorted_indices)
    return data * torch.cat([mask[step, :size] for step, size in enumerate(batch_sizes.tolist())]).to(data.dtype)


@handles(F.batch_norm)
def _batch_norm(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Batch norm that knows its statistics uses them, even in a module that has to leave eval mode for its dropout."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("running_mean") is not None:
        given["training"] = False
    normalized: Tensor = func(**given, **dict(zip(("momentum", "eps"), args[len(names) :], strict=False)))
    return normalized


@handles(torch._pack_padded_sequence)
def _pack(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Packing forgets how many steps there could be; masks are drawn for all of them."""
    padded, batch_first = args[0], args[2]
    mode.padded_steps = max(mode.padded_steps, padded.shape[1 if batch_first else 0])
    return func(*args, **kwargs)


@handles(torch.sort, Tensor.sort, torch.argsort, Tensor.argsort)
def _sort(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Equal numbers stay in their order, so that passes of one row keep their masks where a network sorts its rows."""
    x, *places = args or (kwargs["input"],)
    given = {**dict(zip(("dim", "descending"), places, strict=False)), **kwargs}
    if len(places) > 2 or "stable" in given or "out" in given or torch.compiler.is_exporting():
        return func(*args, **kwargs)
    given.pop("input", None)
    return func(x, **given, stable=True)


def _numbers(
    mode: RandomCalls, kind: str, p: float | None, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of the kind, in the shape and dtype of `like`, which the network may overwrite.

    Complex ones are drawn as PyTorch draws them: two numbers each, of which normal ones have the variance 1 together.
    """
    if like.is_complex():
        parts = _numbers(mode, kind, p, torch.empty((*like.shape, 2), dtype=like.real.dtype), generator)
        numbers = torch.complex(*parts.unbind(-1))
        return numbers / 2**0.5 if kind == NORMAL else numbers
    drawn = mode.ask(kind, p, True, like.shape, generator=generator)
    assert isinstance(drawn, Tensor)
    if kind == UNIFORM and like.dtype in _NARROW:
        drawn = _below_one(drawn, like.dtype)
    if drawn.dtype != like.dtype:
        drawn = drawn.to(like.dtype)
    return (drawn if drawn.shape == like.shape else drawn.expand(like.shape)).clone()


_NARROW = (torch.float16, torch.bfloat16)


def _below_one(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform numbers as a narrow type holds them; rounded to the nearest, some would be 1, which is never drawn."""
    step = torch.finfo(dtype).eps / 2  # as in PyTorch's own
    return (numbers / step).floor() * step


def _into(kwargs: dict[str, Any], numbers: Tensor) -> Tensor:
    """The numbers, in the tensor that a call names with `out`, if it does."""
    out: Tensor | None = kwargs.get("out")
    return numbers if out is None else out.resize_(numbers.shape).copy_(numbers)


def _filled(x: Tensor, numbers: Tensor) -> Tensor:
    """A tensor that takes numbers. Those of several passes, or rows, it cannot: only what is returned is to be read."""
    of_many = isinstance(numbers, Drawn) or (is_mapped(numbers) and not is_mapped(x))
    if of_many and x.is_floating_point():
        x.fill_(torch.nan)
        return numbers
    return x.copy_(numbers)


@handles(torch.rand, torch.randn)
def _new(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    without = {name: value for name, value in kwargs.items() if name not in ("generator", "out")}
    like = torch.empty(*args, **without)
    kind = UNIFORM if func is torch.rand else NORMAL
    return _into(kwargs, _numbers(mode, kind, None, like, kwargs.get("generator")))


@handles(torch.rand_like, torch.randn_like)
def _new_like(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    without = {name: value for name, value in kwargs.items() if name != "generator"}
    like = torch.empty_like(*args, **without)
    return _numbers(mode, UNIFORM if func is torch.rand_like else NORMAL, None, like, kwargs.get("generator"))


@handles(Tensor.uniform_)
def _uniform_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
    high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
    return _filled(x, low + (high - low) * _numbers(mode, UNIFORM, None, x, kwargs.get("generator")))


@handles(Tensor.normal_)
def _normal_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    mean = args[1] if len(args) > 1 else kwargs.get("mean", 0.0)
    deviation = args[2] if len(args) > 2 else kwargs.get("std", 1.0)
    return _filled(x, mean + deviation * _numbers(mode, NORMAL, None, x, kwargs.get("generator")))


@handles(nn.init.uniform_, nn.init.normal_)
def _init(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What fills weights before training fills other tensors too; it hands over all of its arguments by name."""
    draw, names = (_uniform_, ("a", "b")) if func is nn.init.uniform_ else (_normal_, ("mean", "std"))
    with torch.no_grad():
        filled: Tensor = draw(
            mode,
            func,
            (kwargs["tensor"], *(kwargs[name] for name in names)),
            {"generator": kwargs.get("generator")},
        )
    return filled


@handles(torch.normal)
def _normal(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    mean = args[0] if args else kwargs.get("mean", 0.0)
    deviation = args[1] if len(args) > 1 else kwargs.get("std", 1.0)
    size = args[2] if len(args) > 2 else kwargs.get("size")
    if size is not None:
        options = {name: kwargs[name] for name in ("dtype", "device") if name in kwargs}
        like = torch.empty(size, **options)
    else:
        like = mean + torch.zeros_like(deviation) if isinstance(deviation, Tensor) else torch.zeros_like(mean)
    return _into(kwargs, mean + deviation * _numbers(mode, NORMAL, None, like, kwargs.get("generator")))


@handles(Tensor.bernoulli_)
def _bernoulli_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    one = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return _filled(x, _bernoulli_numbers(mode, x, one, kwargs.get("generator")))


@handles(torch.bernoulli, Tensor.bernoulli)
def _bernoulli(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    one = args[1] if len(args) > 1 else kwargs.get("p", x)
    return _into(kwargs, _bernoulli_numbers(mode, x, one, kwargs.get("generator")))


def _bernoulli_numbers(
    mode: RandomCalls, like: Tensor, one: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    """Zeros and ones, of which `one` is the probability of a one."""
    if isinstance(one, Tensor):
        numbers = _numbers(mode, UNIFORM, None, torch.empty_like(like, dtype=torch.float32), generator)
        return (numbers < one).to(like.dtype)
    if not 0.0 < one < 1.0:
        return torch.full_like(like, one)
    return _numbers(mode, BERNOULLI, round(1.0 - one, 12), like, generator)  # 0.2 where one is 1 - 0.2
