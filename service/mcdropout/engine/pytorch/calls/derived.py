"""Numbers of other distributions that a network's own code draws: made of uniform ones, or of normal ones.

Where the call names a generator of its own, it draws as it would: one that is seeded anew in each pass is not random.
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

_LEAST = torch.finfo(torch.float32).eps / 2  # as of PyTorch's own exponential numbers, whose logarithms are finite
_STEP = 2.0**-24  # of uniform numbers
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
    if kwargs.get("generator") is not None:
        return func(*args, **kwargs)
    x: Tensor = args[0]
    names, usual = _PARAMETERS[func]
    given = {**dict(zip(names, usual, strict=True)), **dict(zip(names, args[1:], strict=False)), **kwargs}
    first, *others = (given[name] for name in names)
    if func is Tensor.exponential_:
        numbers = _exponential(mode, x.shape) / first
    elif func is Tensor.geometric_:
        numbers = (_exponential(mode, x.shape) / -math.log1p(-first)).ceil() if first < 1.0 else torch.ones(x.shape)
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


def _whole(mode: RandomCalls, low: int, high: int, shape: Sequence[int]) -> Tensor:
    """Whole numbers from `low` to below `high`."""
    count = high - low
    drawn = _uniform(mode, shape, fine=count > _MOST_BY_ONE) * count
    return drawn.floor().long() + low


@handles(torch.randint)
def _randint(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    bounds = [*args]
    size = kwargs["size"] if "size" in kwargs else bounds.pop()
    high = kwargs["high"] if "high" in kwargs else bounds.pop()
    low = kwargs["low"] if "low" in kwargs else bounds.pop() if bounds else 0
    if kwargs.get("generator") is not None or not low < high:
        drawn: Tensor = func(*args, **kwargs)
        return drawn
    return into(kwargs, _whole(mode, low, high, size).to(kwargs.get("dtype") or torch.int64))


@handles(torch.randint_like)
def _randint_like(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    bounds = [*args]
    like = kwargs["input"] if "input" in kwargs else bounds.pop(0)
    high = kwargs["high"] if "high" in kwargs else bounds.pop()
    low = kwargs["low"] if "low" in kwargs else bounds.pop() if bounds else 0
    if isinstance(high, Tensor) or not low < high:
        drawn: Tensor = func(*args, **kwargs)
        return drawn
    return _whole(mode, low, high, like.shape).to(kwargs.get("dtype") or like.dtype)


@handles(Tensor.random_)
def _random_(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, *bounds = args
    high = kwargs["to"] if "to" in kwargs else bounds.pop() if bounds else None
    low = kwargs["from"] if "from" in kwargs else bounds.pop() if bounds else 0
    if kwargs.get("generator") is not None or high is None or not low < high:  # without, all that its type holds
        drawn: Tensor = func(*args, **kwargs)
        return drawn
    return filled(x, _whole(mode, low, high, x.shape).to(x.dtype))


@handles(torch.randperm)
def _randperm(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The order of uniform numbers."""
    if kwargs.get("generator") is not None:
        drawn: Tensor = func(*args, **kwargs)
        return drawn
    order = _uniform(mode, (args[0] if args else kwargs["n"],), fine=True).argsort()
    return into(kwargs, order.to(kwargs.get("dtype") or torch.int64))


@handles(torch.multinomial, Tensor.multinomial)
def _multinomial(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Each by the shares below it; or, without replacement, those whose exponential numbers, of these rates, are least
    (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir")."""
    names = ("input", "num_samples", "replacement")
    given = {"replacement": False, **dict(zip(names, args, strict=False)), **kwargs}
    if given.get("generator") is not None:
        drawn: Tensor = func(*args, **kwargs)
        return drawn
    weights, count = given["input"].double(), given["num_samples"]
    if count > 1 and not given["replacement"]:
        return into(kwargs, (weights / _exponential(mode, weights.shape)).topk(count, -1).indices)
    shares = weights.cumsum(-1)
    shares = shares / shares[..., -1:]
    numbers = _uniform(mode, (*weights.shape[:-1], count))
    return into(kwargs, (shares[..., None, :] <= numbers[..., None]).sum(-1))


_gumbel_softmax = seen_through(F.gumbel_softmax)


@handles(F.gumbel_softmax)
def _gumbel(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    with mode:
        drawn: Tensor = _gumbel_softmax(*args, **kwargs)
    return drawn
