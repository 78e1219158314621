"""What objects hold: modules, containers and instances of classes, and what functions carry with them."""

import functools
import random
import types
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

Function = types.FunctionType
Cached = type(functools.lru_cache(lambda: None))
_PLAIN = (
    *(types.NoneType, types.EllipsisType, types.NotImplementedType, bool, int, float, complex, str, bytes, range),
    *(type, types.ModuleType, types.CodeType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_BOUND = (types.BuiltinFunctionType, types.MethodWrapperType)
_REGISTERED = ("_modules", "_parameters", "_buffers")
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_LEAVES = (*GENERATORS, torch.Tensor, torch.jit.ScriptFunction)
# Of these packages, what is no container and no module is the package's own affair.
_FOREIGN = ("torch.fx", "torch._", "numpy", "threading", "logging", "multiprocessing")


def held(x: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, under the names that it has there; "" where it has none."""
    if isinstance(x, nn.Module):
        for name, value in list(vars(x).items()):
            if name in _REGISTERED and isinstance(value, dict):
                yield from list(value.items())
            else:
                yield name, value
    elif isinstance(x, dict):
        yield from ((str(key), value) for key, value in list(dict.items(x)))
        yield from (("", key) for key, _ in list(dict.items(x)) if isinstance(key, tuple | nn.Module | Function))
        if isinstance(x, defaultdict):
            yield "", x.default_factory
    elif isinstance(x, list | tuple | set | frozenset | deque):
        yield from ((str(index), value) for index, value in enumerate(list(x)))
    elif isinstance(x, Function):
        yield from ((name, cell.cell_contents) for name, cell in cells(x) if not is_empty(cell))
        yield from (("", value) for value in x.__defaults__ or ())
        yield from (x.__kwdefaults__ or {}).items()
        yield from vars(x).items()
    elif isinstance(x, types.MethodType):
        yield "", x.__func__
        yield "", x.__self__
    elif isinstance(x, functools.partial):
        yield "", x.func
        yield from (("", value) for value in x.args)
        yield from x.keywords.items()
    elif isinstance(x, Cached):
        yield "", x.__wrapped__
    elif isinstance(x, _BOUND):
        if has_owner(x):
            yield "", x.__self__
    elif is_instance(x):
        yield from list(getattr(x, "__dict__", {}).items())
        yield from ((name, getattr(x, name)) for name in slots(x) if hasattr(x, name))


def walk(root: Any, enters: Callable[[Any], bool] = lambda _: True) -> Iterator[tuple[str, Any]]:
    """All that is reached from an object, itself first, each once, with the path to it: names joined by dots.

    Args:
        root: where to begin.
        enters: whether to go on from an object.
    """
    seen, waiting = {id(root)}, deque([("", root)])
    kept = [root]  # so that no number of what was made on the way is given to another
    while waiting:
        path, x = waiting.popleft()
        yield path, x
        if not enters(x):
            continue
        for name, value in held(x):
            if id(value) not in seen and not is_plain(value):
                seen.add(id(value))
                kept.append(value)
                waiting.append((".".join(filter(None, (path, name))), value))


def cells(function: Function) -> list[tuple[str, types.CellType]]:
    """The variables of a closure."""
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def is_empty(cell: types.CellType) -> bool:
    """Whether a variable has no value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def has_owner(x: Any) -> bool:
    """Whether what is built in is bound to an object, as `things.append` is."""
    return not isinstance(getattr(x, "__self__", None), types.NoneType | types.ModuleType | type)


def is_plain(x: Any) -> bool:
    """Whether nothing can change in an object, and it holds nothing."""
    return isinstance(x, _PLAIN)


def is_instance(x: Any) -> bool:
    """Whether it is an object of a class that somebody wrote, whose attributes are looked at."""
    if is_plain(x) or isinstance(x, _LEAVES):
        return False
    return not type(x).__module__.startswith(_FOREIGN) and (hasattr(x, "__dict__") or bool(slots(x)))


def slots(x: Any) -> list[str]:
    """The attributes of an object that lie in slots."""
    named: list[str] = []
    for kind in type(x).__mro__:
        declared: str | Collection[str] = vars(kind).get("__slots__", ())
        named += [declared] if isinstance(declared, str) else declared
    return [name for name in named if name not in ("__dict__", "__weakref__") and not name.startswith("__")]


def carries_state(x: Any) -> bool:
    """Whether something that a deep copy would share, a function or what is bound, leads to what it would copy."""
    waiting, seen = [x], {id(x)}
    while waiting:
        for _, value in held(waiting.pop()):
            if is_plain(value) or id(value) in seen:
                continue
            if not isinstance(value, (Function, types.MethodType, tuple, frozenset, Cached, *_BOUND)):
                return True
            seen.add(id(value))
            waiting.append(value)
    return False


def is_users(kind: type) -> bool:
    """Whether a class is neither PyTorch's nor Python's."""
    return not kind.__module__.startswith(("torch.", "builtins"))
