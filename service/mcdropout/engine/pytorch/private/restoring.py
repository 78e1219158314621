"""Putting back: what an object is, noted, so that it can be made so again."""

import copy
import functools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcdropout.engine.pytorch.private.held import Cached, is_instance, slots

Restore = Callable[[], None]
CONTAINERS = (dict, list, set, deque, bytearray)


def kept(things: Iterable[Any]) -> Iterator[Restore]:
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
        elif isinstance(x, Tensor) and not x.is_inference():
            version = torch.autograd.grad_mode._unsafe_preserve_version_counter(x)
            yield functools.partial(_restore_tensor, x, x._version, x.detach().clone(), version)
        elif isinstance(x, np.ndarray):
            yield functools.partial(_restore_array, x, x.copy())
        elif isinstance(x, np.random.Generator):
            yield functools.partial(setattr, x.bit_generator, "state", copy.deepcopy(x.bit_generator.state))
        elif isinstance(x, np.random.RandomState):
            yield functools.partial(x.set_state, x.get_state())
        elif isinstance(x, random.Random):
            yield functools.partial(x.setstate, x.getstate())
        elif isinstance(x, torch.Generator):
            yield functools.partial(_restore_generator, x, x.get_state())
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


def _restore_tensor(x: Tensor, version: int, before: Tensor, counter: Any) -> None:
    if x._version != version:
        x.detach().copy_(before)
        counter.__exit__()


def _restore_array(x: Any, before: Any) -> None:
    if x.dtype.hasobject or not np.array_equal(x, before, equal_nan=x.dtype.kind in "fc"):
        x[...] = before


def _restore_generator(x: torch.Generator, state: Tensor) -> None:
    x.set_state(state)


def _forget(x: Any, misses: int) -> None:
    """What a cache took in may be tensors of an export, which hold no numbers."""
    if x.cache_info().misses != misses:
        x.cache_clear()
