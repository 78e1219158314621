"""Uniform, normal and Bernoulli numbers that a network's own code draws."""

from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.engine.kinds import BERNOULLI, NORMAL, UNIFORM
from mcdropout.engine.pytorch.calls.mode import RandomCalls, handles
from mcdropout.engine.pytorch.drawn import Drawn
from mcdropout.engine.pytorch.mapping import is_mapped


def numbers_of(
    mode: RandomCalls, kind: str, p: float | None, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of the kind, in the shape and dtype of `like`, which the network may overwrite.

    Complex ones are drawn as PyTorch draws them: two numbers each, of which normal ones have the variance 1 together.
    """
    if like.is_complex():
        parts = numbers_of(mode, kind, p, torch.empty((*like.shape, 2), dtype=like.real.dtype), generator)
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


def into(kwargs: dict[str, Any], numbers: Tensor) -> Tensor:
    """The numbers, in the tensor that a call names with `out`, if it does."""
    out: Tensor | None = kwargs.get("out")
    return numbers if out is None else out.resize_(numbers.shape).copy_(numbers)


def filled(x: Tensor, numbers: Tensor) -> Tensor:
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
    return into(kwargs, numbers_of(mode, kind, None, like, kwargs.get("generator")))


@handles(torch.rand_like, torch.randn_like)
def _new_like(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    without = {name: value for name, value in kwargs.items() if name != "generator"}
    like = torch.empty_like(*args, **without)
    return numbers_of(mode, UNIFORM if func is torch.rand_like else NORMAL, None, like, kwargs.get("generator"))


@handles(Tensor.uniform_)
def _uniform_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
    high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
    return filled(x, low + (high - low) * numbers_of(mode, UNIFORM, None, x, kwargs.get("generator")))


@handles(Tensor.normal_)
def _normal_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    mean = args[1] if len(args) > 1 else kwargs.get("mean", 0.0)
    deviation = args[2] if len(args) > 2 else kwargs.get("std", 1.0)
    return filled(x, mean + deviation * numbers_of(mode, NORMAL, None, x, kwargs.get("generator")))


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
    return into(kwargs, mean + deviation * numbers_of(mode, NORMAL, None, like, kwargs.get("generator")))


@handles(Tensor.bernoulli_)
def _bernoulli_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0]
    one = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return filled(x, _bernoulli_numbers(mode, x, one, kwargs.get("generator")))


@handles(torch.bernoulli, Tensor.bernoulli)
def _bernoulli(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    one = args[1] if len(args) > 1 else kwargs.get("p", x)
    return into(kwargs, _bernoulli_numbers(mode, x, one, kwargs.get("generator")))


def _bernoulli_numbers(
    mode: RandomCalls, like: Tensor, one: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    """Zeros and ones, of which `one` is the probability of a one."""
    if isinstance(one, Tensor):
        numbers = numbers_of(mode, UNIFORM, None, torch.empty_like(like, dtype=torch.float32), generator)
        return (numbers < one).to(like.dtype)
    if not 0.0 < one < 1.0:
        return torch.full_like(like, one)
    return numbers_of(mode, BERNOULLI, round(1.0 - one, 12), like, generator)  # 0.2 where one is 1 - 0.2
