"""Numbers of other distributions that a network's own code draws: made of uniform ones, or of normal ones.

Where the call names a generator of its own, it draws as it would: one that is seeded anew in each pass is not random.
So does one with arguments that PyTorch refuses, in whose words that is told.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcdropout.engine.kinds import NORMAL, UNIFORM
from mcdropout.engine.pytorch.calls.mode import RandomCalls, handles, seen_through
from mcdropout.engine.pytorch.calls.numbers import filled, into, numbers_of
from mcdropout.engine.pytorch.drawn import Drawn
from mcdropout.engine.pytorch.mapping import is_mapped

_LEAST = torch.finfo(torch.float32).eps / 2  # as of PyTorch's own exponential numbers, whose logarithms are finite
_STEP = 2.0**-24  # of uniform numbers
_NOWHERE = -(2**31)  # an index of nothing, where a program is not to ask whether there is one
_MOST_BY_ONE = 256  # whole numbers that one uniform number tells apart, each as likely as another to 1 in 65,536


def _uniform(mode: RandomCalls, shape: Sequence[int], *, fine: bool = False) -> Tensor:
    """Uniform numbers in float64, in steps of 2**-24, or, of two each, of 2**-48."""
    if not fine:
        return numbers_of(mode, UNIFORM, None, torch.empty(tuple(shape))).double()
    pairs = numbers_of(mode, UNIFORM, None, torch.empty((*shape, 2))).double()
    return pairs[..., 0] + _STEP * pairs[..., 1]


def _exponential(mode: RandomCalls, shape: Sequence[int]) -> Tensor:
    """Exponential numbers of rate 1, in float64; none is 0."""
    return -torch.log1p(-_uniform(mode, shape)).clamp(max=-_LEAST)


@handles(Tensor.exponential_, Tensor.geometric_, Tensor.cauchy_, Tensor.log_normal_)
def _fill(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x: Tensor = args[0]
    names, usual = _PARAMETERS[func]
    given = {**dict(zip(names, usual, strict=True)), **dict(zip(names, args[1:], strict=False)), **kwargs}
    first, *others = (given[name] for name in names)
    is_of_trials = func is Tensor.geometric_
    scale = others[0] if others else first
    if kwargs.get("generator") is not None or not (x.is_floating_point() or is_of_trials):
        return func(*args, **kwargs)
    if not scale > 0.0 or (is_of_trials and not scale < 1.0):
        return func(*args, **kwargs)
    if func is Tensor.exponential_:
        numbers = _exponential(mode, x.shape) / first
    elif is_of_trials:
        numbers = (_exponential(mode, x.shape) / -math.log1p(-first)).ceil()
    elif func is Tensor.cauchy_:
        numbers = first + others[0] * torch.tan(math.pi * (_uniform(mode, x.shape) - 0.5))
    else:
        normal = numbers_of(mode, NORMAL, None, torch.empty(x.shape)).double()
        numbers = torch.exp(first + others[0] * normal)
    return filled(x, numbers.to(x.dtype))


_PARAMETERS: dict[Any, tuple[tuple[str, ...], tuple[float, ...]]] = {
    Tensor.exponential_: (("lambd",), (1.0,)),
    Tensor.geometric_: (("p",), (math.nan,)),
    Tensor.cauchy_: (("median", "sigma"), (0.0, 1.0)),
    Tensor.log_normal_: (("mean", "std"), (1.0, 2.0)),
}


def _bounds(given: list[Any], named: dict[str, Any], least: str, most: str) -> tuple[Any, Any]:
    """From which number on whole numbers are drawn, 0 where that is not said, and below which; None where none is."""
    high = named[most] if most in named else given.pop() if given else None
    return (named[least] if least in named else given.pop() if given else 0), high


def _holds(dtype: torch.dtype, low: Any, high: Any) -> bool:
    """Whether there are whole numbers from `low` to below `high`, and a type holds them."""
    if high is None or not low < high:
        return False
    if dtype.is_floating_point or dtype is torch.bool:
        return dtype is not torch.bool or (low >= 0 and high <= 2)
    limits = torch.iinfo(dtype)
    return bool(low >= limits.min and high - 1 <= limits.max)


def _whole(mode: RandomCalls, low: int, high: int, shape: Sequence[int]) -> Tensor:
    """Whole numbers from `low` to below `high`."""
    count = high - low
    drawn = _uniform(mode, shape, fine=count > _MOST_BY_ONE) * count
    return drawn.floor().long() + low


@handles(torch.randint)
def _randint(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bounds = [*args]
    size = kwargs["size"] if "size" in kwargs else bounds.pop()
    low, high = _bounds(bounds, kwargs, "low", "high")
    dtype = kwargs.get("dtype") or torch.int64
    if kwargs.get("generator") is not None or not _holds(dtype, low, high):
        return func(*args, **kwargs)
    return into(kwargs, _whole(mode, low, high, size).to(dtype))


@handles(torch.randint_like)
def _randint_like(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bounds = [*args]
    like = kwargs["input"] if "input" in kwargs else bounds.pop(0)
    low, high = _bounds(bounds, kwargs, "low", "high")
    dtype = kwargs.get("dtype") or like.dtype
    if not _holds(dtype, low, high):
        return func(*args, **kwargs)
    return _whole(mode, low, high, like.shape).to(dtype)


@handles(Tensor.random_)
def _random_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *bounds = args
    low, high = _bounds(bounds, kwargs, "from", "to")
    if kwargs.get("generator") is not None or not _holds(x.dtype, low, high):
        return func(*args, **kwargs)
    return filled(x, _whole(mode, low, high, x.shape).to(x.dtype))


@handles(torch.randperm)
def _randperm(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The order of uniform numbers."""
    count, dtype = args[0] if args else kwargs["n"], kwargs.get("dtype") or torch.int64
    if kwargs.get("generator") is not None or (type(count) is int and not _holds(dtype, 0, max(1, count))):
        return func(*args, **kwargs)
    return into(kwargs, _uniform(mode, (count,), fine=True).argsort().to(dtype))


@handles(torch.multinomial, Tensor.multinomial)
def _multinomial(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each by the shares below it; or, without replacement, those whose exponential numbers, of these rates, are least
    (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir")."""
    names = ("input", "num_samples", "replacement")
    given = {"replacement": False, **dict(zip(names, args, strict=False)), **kwargs}
    if given.get("generator") is not None or not _can_pick(given["input"], given["num_samples"], given["replacement"]):
        return func(*args, **kwargs)
    weights, count = given["input"].double(), given["num_samples"]
    if count > 1 and not given["replacement"]:
        picked = (weights / _exponential(mode, weights.shape)).topk(count, -1).indices
    else:
        shares = weights.cumsum(-1)
        numbers = _uniform(mode, (*weights.shape[:-1], count)) * shares[..., -1:]
        picked = (shares[..., None, :] <= numbers[..., None]).sum(-1)
    if not _can_be_read(weights):
        usable = (weights >= 0.0).all(-1, keepdim=True) & (weights.sum(-1, keepdim=True) > 0.0)
        picked = torch.where(usable, picked, _NOWHERE)
    return into(kwargs, picked)


def _can_pick(weights: Tensor, count: int, replacement: bool) -> bool:
    """Whether PyTorch picks by such weights, as far as that can be seen."""
    if not weights.is_floating_point() or weights.dim() not in (1, 2) or count < 1:
        return False
    if not replacement and count > weights.shape[-1]:
        return False
    if not _can_be_read(weights):
        return True
    least, most = weights.sum(-1).aminmax()
    return bool(least > 0.0) and math.isfinite(most) and bool(weights.min() >= 0.0)


def _can_be_read(x: Tensor) -> bool:
    """Whether a tensor is one pass's, of numbers that are there."""
    return not (torch.compiler.is_compiling() or isinstance(x, Drawn) or is_mapped(x))


_gumbel_softmax = seen_through(F.gumbel_softmax)


@handles(F.gumbel_softmax)
def _gumbel(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    with mode:
        drawn: Tensor = _gumbel_softmax(*args, **kwargs)
    return drawn
