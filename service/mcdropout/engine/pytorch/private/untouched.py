"""What code of a user's network reaches although a copy of it runs, and is put back: its classes, global variables, and
what PyTorch, NumPy and Python hold for a whole process."""

import functools
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcdropout.engine.pytorch.private.held import Cached, Function, is_instance, is_plain, is_users, walk
from mcdropout.engine.pytorch.private.restoring import CONTAINERS, Restore, kept
from mcdropout.engine.pytorch.private.variables import MISSING, Variable, globals_named

_SPECIAL = ("__dict__", "__weakref__", "__doc__", "__annotations__", "__abstractmethods__", "_abc_impl")


@contextmanager
def untouched(module: object) -> Iterator[None]:
    """While it is entered, a copy of the network may run; then all that its code reached is as before.

    What the network itself holds is put back where an error leaves the context. Else nothing in it was reached: no
    copy that reaches it is served.
    """
    things = [x for _, x in walk(module)]
    owned = list(_owned(things))
    carried = [x for function in things if isinstance(function, Function) for _, x in walk(function, _is_inside)]
    reachable = [*_of_process(), *_of_classes(things), *_of_globals(things), *kept(carried)]
    try:
        yield
    except BaseException:
        _call_all(owned)
        raise
    finally:
        _call_all(reachable)


@contextmanager
def while_copied(module: nn.Module) -> Iterator[None]:
    """While it is entered, the network may be copied; what its own code writes to it meanwhile is put back."""
    owned = list(_owned(x for _, x in walk(module)))
    try:
        yield
    finally:
        _call_all(owned)


def _owned(things: Iterable[Any]) -> Iterator[Restore]:
    return kept(x for x in things if isinstance(x, (nn.Module, *CONTAINERS)) or is_instance(x))


def _call_all(restores: Iterable[Restore]) -> None:
    for restore in restores:
        restore()


def _is_inside(x: Any) -> bool:
    """Whether a way through what functions hold goes on from an object: not where the networks begin."""
    return not isinstance(x, nn.Module | Tensor)


def _of_process() -> Iterator[Restore]:
    partial = functools.partial
    yield partial(torch.set_default_dtype, torch.get_default_dtype())
    yield partial(_switch_gradients, torch.is_grad_enabled())
    yield partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
    yield partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    yield partial(torch.set_rng_state, torch.get_rng_state())
    yield partial(np.random.set_state, np.random.get_state())
    yield partial(random.setstate, random.getstate())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _switch_gradients(on: bool) -> None:
    torch.set_grad_enabled(on)


def _of_classes(things: Iterable[Any]) -> Iterator[Restore]:
    """The attributes of the classes of `things`, but of PyTorch's."""
    objects = (x for x in things if isinstance(x, nn.Module) or is_instance(x))
    classes = {kind: None for x in objects for kind in type(x).__mro__}
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
    for variable in globals_named(things):
        yield functools.partial(_restore_global, variable)
        if id(variable.value) not in seen and not isinstance(variable.value, Function):
            seen.add(id(variable.value))
            yield from _kept_within([variable.value], variable.variables.get("__name__"))


def _restore_global(variable: Variable) -> None:
    if variable.value is MISSING:
        variable.variables.pop(variable.name, None)
    elif variable.variables.get(variable.name) is not variable.value:
        variable.variables[variable.name] = variable.value


def _kept_within(values: Iterable[Any], file: str | None) -> Iterator[Restore]:
    """Of some values what they hold, as long as that is a container, or of a class that is defined in `file`."""

    def goes_on(x: Any) -> bool:
        return isinstance(x, (*CONTAINERS, tuple)) or (_is_inside(x) and type(x).__module__ == file)

    for value in values:
        if not is_plain(value):
            found = [x for _, x in walk(value, goes_on)]
            yield from kept(x for x in found if goes_on(x) or isinstance(x, Cached) or not is_instance(x))
