"""What code of a user's network may reach although a copy of it runs, and is put back: its classes, global variables, and
what PyTorch, NumPy and Python hold for a whole process."""

import copy
import functools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcdropout.engine.pytorch.private.held import Cached, Function, is_instance, is_plain, slots, walk
from mcdropout.engine.pytorch.private.outside import globals_named, is_users

Restore = Callable[[], None]
_CONTAINERS = (dict, list, set, deque, bytearray)
_SPECIAL = ("__dict__", "__weakref__", "__doc__", "__annotations__", "__abstractmethods__", "_abc_impl")


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """While it is entered, a copy of the network may run; then all that its code reached is as before.

    What the network itself holds is put back where an error leaves the context. Else nothing in it was reached: no
    copy that reaches it is served.
    """
    things = [x for _, x in walk(module)]
    owned = list(_kept(x for x in things if isinstance(x, nn.Module) or is_instance(x) or isinstance(x, _CONTAINERS)))
    carried = [x for function in things if isinstance(function, Function) for _, x in walk(function, _is_inside)]
    reachable = [*_of_process(), *_of_classes(things), *_of_globals(things), *_kept(carried)]
    try:
        yield
    except BaseException:
        _call_all(owned)
        raise
    finally:
        _call_all(reachable)


def _call_all(restores: Iterable[Restore]) -> None:
    for restore in restores:
        restore()


def _is_inside(x: Any) -> bool:
    """Whether a way through what functions hold goes on from an object: not where the networks begin."""
    return not isinstance(x, nn.Module | Tensor)


def _of_process() -> Iterator[Restore]:
    states = (
        (torch.get_default_dtype(), torch.set_default_dtype),
        (torch.is_grad_enabled(), torch.set_grad_enabled),
        (torch.get_rng_state(), torch.set_rng_state),
        (np.random.get_state(), np.random.set_state),  # noqa: NPY002
        (random.getstate(), random.setstate),
        (torch.are_deterministic_algorithms_enabled(), torch.use_deterministic_algorithms),
    )
    for state, put in states:
        yield functools.partial(put, state)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _of_classes(things: Iterable[Any]) -> Iterator[Restore]:
    """The attributes of the classes of the networks among `things`, but of PyTorch's."""
    classes = {kind: None for x in things if isinstance(x, nn.Module) for kind in type(x).__mro__}
    for kind in filter(is_users, classes):
        names = {name: value for name, value in vars(kind).items() if name not in _SPECIAL}
        yield functools.partial(_restore_class, kind, names)
        yield from _kept_within(names.values(), kind.__module__)


def _restore_class(kind: type, before: dict[str, Any]) -> None:
    now = {name: value for name, value in vars(kind).items() if name not in _SPECIAL}
    for name in now.keys() - before.keys():
        delattr(kind, name)
    for name, value in before.items():
        if now.get(name, before) is not value:
            setattr(kind, name, value)


def _of_globals(things: Iterable[Any]) -> Iterator[Restore]:
    """The global variables that code of the networks among `things` names."""
    seen: set[int] = set()
    for function, name, value in globals_named(things):
        yield functools.partial(_restore_global, function.__globals__, name, value)
        if id(value) not in seen and not isinstance(value, Function):
            seen.add(id(value))
            yield from _kept_within([value], function.__module__)


def _restore_global(variables: dict[str, Any], name: str, value: Any) -> None:
    if variables.get(name) is not value:
        variables[name] = value


def _kept_within(values: Iterable[Any], file: str | None) -> Iterator[Restore]:
    """Of some values what they hold, as long as that is a container, or of a class that is defined in `file`."""

    def goes_on(x: Any) -> bool:
        return isinstance(x, (*_CONTAINERS, tuple)) or (_is_inside(x) and type(x).__module__ == file)

    for value in values:
        if not is_plain(value):
            found = [x for _, x in walk(value, goes_on)]
            yield from _kept(x for x in found if goes_on(x) or not is_instance(x))


def _kept(things: Iterable[Any]) -> Iterator[Restore]:
    """For each thing that can change, what puts it back."""
    for x in things:
        if isinstance(x, nn.Module) or is_instance(x):
            attributes = {name: getattr(x, name) for name in slots(x) if hasattr(x, name)}
            if hasattr(x, "__dict__"):
                yield functools.partial(_restore_dict, vars(x), list(vars(x).items()))
            if attributes:
                yield functools.partial(_restore_slots, x, attributes)
        if isinstance(x, dict):
            yield functools.partial(_restore_dict, x, list(dict.items(x)))
        elif isinstance(x, list | deque | bytearray):
            yield functools.partial(_restore_list, x, list(x))
        elif isinstance(x, set):
            yield functools.partial(_restore_set, x, set(x))
        elif isinstance(x, Tensor):
            yield functools.partial(_restore_tensor, x, x._version, x.detach().clone())
        elif isinstance(x, np.ndarray):
            yield functools.partial(_restore_array, x, x.copy())
        elif isinstance(x, np.random.Generator):
            yield functools.partial(setattr, x.bit_generator, "state", copy.deepcopy(x.bit_generator.state))
        elif isinstance(x, np.random.RandomState):
            yield functools.partial(x.set_state, x.get_state())
        elif isinstance(x, random.Random):
            yield functools.partial(x.setstate, x.getstate())
        elif isinstance(x, torch.Generator):
            yield functools.partial(x.set_state, x.get_state())
        elif isinstance(x, Cached):
            yield functools.partial(_forget, x, x.cache_info().misses)


def _restore_dict(x: dict[Any, Any], before: list[tuple[Any, Any]]) -> None:
    now = dict.items(x)  # what a class of its own may do when it is asked for an entry is not wanted here
    if len(now) != len(before) or any(a is not c or b is not d for (a, b), (c, d) in zip(now, before, strict=True)):
        kind = OrderedDict if isinstance(x, OrderedDict) else dict
        kind.clear(x)
        for key, value in before:
            kind.__setitem__(x, key, value)


def _restore_list(x: Any, before: list[Any]) -> None:
    if len(x) != len(before) or any(a is not b for a, b in zip(x, before, strict=True)):
        x.clear()
        x.extend(before)


def _restore_set(x: set[Any], before: set[Any]) -> None:
    if x != before:
        x.clear()
        x.update(before)


def _restore_slots(x: Any, before: dict[str, Any]) -> None:
    for name, value in before.items():
        if getattr(x, name, before) is not value:
            object.__setattr__(x, name, value)


def _restore_tensor(x: Tensor, version: int, before: Tensor) -> None:
    if x._version != version:
        x.detach().copy_(before)


def _restore_array(x: Any, before: Any) -> None:
    if x.dtype.hasobject or not np.array_equal(x, before, equal_nan=x.dtype.kind in "fc"):
        x[...] = before


def _forget(x: Any, misses: int) -> None:
    """What a cache took in may be tensors of an export, which hold no numbers."""
    if x.cache_info().misses != misses:
        x.cache_clear()
