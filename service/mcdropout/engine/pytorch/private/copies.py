"""Private copies of networks: deep copies whose functions hold the copy's modules, where the user's hold the user's.

`copy.deepcopy` takes functions for constants. A closure over `self`, a `forward` that was replaced by a function over
the network, a hook that was bound to it: in the copy they would go on to call the user's own modules.
"""

import copy
import functools
import types
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.faults import described
from mcdropout.engine.pytorch.private.held import (
    GENERATORS,
    Cached,
    Function,
    carries_state,
    cells,
    has_owner,
    is_empty,
    is_instance,
    is_plain,
    is_users,
    slots,
    walk,
)

_ACCEPTED = "the engine works on a copy of its own, so copy.deepcopy(module) has to"


@dataclass(frozen=True)
class Copy:
    """A private copy.

    Attributes:
        module: the copy of the network.
        parts: all its modules by their paths: those that are registered, then those that only lists, functions or
            other objects hold, which neither `modules()` nor `eval()` reaches.
        tensors: all its parameters, buffers and other tensors.
        generators: all generators of random numbers that it holds.
    """

    module: nn.Module
    parts: Mapping[str, nn.Module]
    tensors: tuple[Tensor, ...]
    generators: tuple[Any, ...]

    @property
    def hidden(self) -> dict[str, nn.Module]:
        """Those of its parts that are not registered, by their paths."""
        registered = {id(part) for part in self.module.modules()}
        return {path: part for path, part in self.parts.items() if id(part) not in registered}

    def state(self) -> dict[str, Tensor]:
        """Its state, with that of its hidden parts; not what has no values, and stands for others."""
        parts = [("", self.module), *((f"{path}.", part) for path, part in self.hidden.items())]
        values = ((prefix + name, value) for prefix, part in parts for name, value in part.state_dict().items())
        return {name: value for name, value in values if isinstance(value, Tensor) and not value.is_meta}

    def seed(self, seed: int) -> None:
        """Seed its generators: copies would all draw the same numbers, and seem to draw none."""
        for generator in self.generators:
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = type(generator.bit_generator)(seed).state
            elif isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            else:
                generator.seed(seed)


def private_copy(module: nn.Module, instead: Mapping[int, nn.Module] | None = None) -> Copy:
    """A copy that shares no module, no parameter and no buffer with the network; in the same modes, with its hooks.

    Functions that it holds, in attributes, hooks, containers and closures, are bound to what the copy holds. Tensors
    that a layer keeps from a forward pass, as older weight norms do, come without history.

    Args:
        module: the network; left as it is.
        instead: what stands for some of its parts in the copy, by their `id`.

    Raises:
        UnsupportedModelError: it cannot be copied, or its copy shares something with it.
    """
    name = type(module).__name__
    try:
        originals = {id(x): x for _, x in walk(module)}
        histories = [x for x in originals.values() if isinstance(x, Tensor) and not x.is_leaf]
        memo: dict[int, Any] = {id(x): x.detach().clone() for x in histories} | dict(instead or {})
        copied: nn.Module = copy.deepcopy(module, memo)
        _Rebinding(memo, originals).rebind(copied)
        # What a function holds and cannot be copied is the user's: the way does not go on there.
        own = list(walk(copied, lambda x: id(x) not in originals))
        shared = _shared(own, originals)
    except Exception as error:
        raise UnsupportedModelError(f"{name} cannot be copied: {described(error, module)}; {_ACCEPTED} work") from error
    if shared:
        raise UnsupportedModelError(
            f"{name} cannot be copied (its copy shares {shared} with it); {_ACCEPTED} make an independent one"
        )
    parts = _parts(copied, own)
    if lazy := [path for path, x in own if isinstance(x, Tensor) and is_lazy(x)]:
        raise UnsupportedModelError(
            f"{name} cannot be copied ({lazy[0]} has no values yet); a network that has run once is accepted"
        )
    if scripts := [path for path, part in parts.items() if isinstance(part, torch.jit.ScriptModule)]:
        raise UnsupportedModelError(
            f"{name} cannot be copied ({scripts[0] or 'it'} is compiled to TorchScript, in which no dropout can be "
            "seen); the network as it was before torch.jit.script or torch.jit.trace is accepted"
        )
    tensors = tuple(x for _, x in own if isinstance(x, Tensor))
    generators = tuple(x for _, x in own if isinstance(x, GENERATORS) and id(x) not in originals)
    return Copy(copied, parts, tensors, generators)


def _parts(copied: nn.Module, own: list[tuple[str, Any]]) -> dict[str, nn.Module]:
    parts = dict(copied.named_modules())
    known = {id(part) for part in parts.values()}
    for path, x in own:
        if isinstance(x, nn.Module) and id(x) not in known:
            while path in parts:
                path += "'"
            parts[path] = x
    return parts


def _shared(own: list[tuple[str, Any]], originals: dict[int, Any]) -> str | None:
    """A module, parameter or buffer that a copy has in common with its original."""
    storages = {_storage(x) for x in originals.values() if isinstance(x, Tensor)} - {None}
    for path, x in own:
        if not isinstance(x, nn.Module):
            continue
        if id(x) in originals:
            return f"{path or 'all'} ({type(x).__name__})"
        for name, tensor in (*x._parameters.items(), *x._buffers.items()):
            if tensor is not None and (id(tensor) in originals or _storage(tensor) in storages):
                return f"{path}.{name}".strip(".")
    return None


def _storage(x: Tensor) -> int | None:
    try:
        return x.untyped_storage().data_ptr() or None
    except (RuntimeError, ValueError, NotImplementedError):  # sparse tensors, and tensors without data
        return None


class _Rebinding:
    """Binds the functions in a deep copy to it.

    Args:
        memo: of `copy.deepcopy`: what stands for each object of the original.
        originals: the objects of the original, by their ids.
    """

    def __init__(self, memo: dict[int, Any], originals: dict[int, Any]) -> None:
        self._memo = memo
        self._originals = originals
        self._done: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._waiting: list[Any] = []
        self._methods: dict[type, tuple[tuple[str, Function], ...]] = {}

    def rebind(self, root: Any) -> None:
        """Bind all that is reached from the copy `root`."""
        self._bound(root)
        while self._waiting:
            holder = self._waiting.pop()
            for value, put in _places(holder):
                bound = self._bound(value)
                if bound is not value:
                    put(bound)
            if isinstance(holder, nn.Module):
                self._bind_methods(holder)

    def _bound(self, x: Any) -> Any:
        """What a copy holds in the place of `x`, which a deep copy has put there."""
        if is_plain(x):
            return x
        if id(x) not in self._done:
            self._kept.append(x)
            self._done[id(x)] = x
            bound = self._bind(x)
            self._kept.append(bound)
            self._done[id(x)] = self._done[id(bound)] = bound
        return self._done[id(x)]

    def _bind(self, x: Any) -> Any:
        if isinstance(x, Function):
            return self._function(x) if carries_state(x) else x
        if isinstance(x, types.MethodType):
            function, owner = self._bound(x.__func__), self._bound(x.__self__)
            same = function is x.__func__ and owner is x.__self__
            return x if same else types.MethodType(function, owner)
        if isinstance(x, types.BuiltinFunctionType | types.MethodWrapperType):
            # `random.random` and its like are bound to generators that belong to all.
            shared = not has_owner(x) or isinstance(x.__self__, GENERATORS)
            owner = x.__self__ if shared else self._own(x.__self__, x)
            return x if owner is x.__self__ else getattr(owner, x.__name__)
        if isinstance(x, Cached):
            inner = self._bound(x.__wrapped__)
            return x if inner is x.__wrapped__ else functools.lru_cache(**x.cache_parameters())(inner)
        if isinstance(x, functools.partial):
            return self._partial(x)
        if type(x) is weakref.ref:
            target = x()
            return weakref.ref(self._memo[id(target)]) if target is not None and id(target) in self._memo else x
        if isinstance(x, tuple | frozenset):
            items = [self._bound(item) for item in x]
            if all(a is b for a, b in zip(items, x, strict=True)):
                return x
            return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
        if id(x) not in self._originals:
            self._waiting.append(x)
        return x

    def _partial(self, x: functools.partial[Any]) -> functools.partial[Any]:
        function, arguments = self._bound(x.func), self._bound(x.args)
        named, attributes = ({key: self._bound(value) for key, value in part.items()} for part in (x.keywords, vars(x)))
        bound = type(x)(function, *arguments, **named)
        vars(bound).update(attributes)
        return bound

    def _own(self, x: Any, holder: Any) -> Any:
        """A copy of what `holder`, which a deep copy shares, holds; the thing itself where it cannot be copied."""
        if id(holder) not in self._originals:  # made while it was copied, from what the copy holds
            return self._bound(x)
        before = len(self._memo)
        try:
            copied = copy.deepcopy(x, self._memo)
        except Exception:  # whatever an object raises: a lock, a file, a trainer that holds them
            for key in list(self._memo)[before:]:
                del self._memo[key]
            return x
        return self._bound(copied)

    def _function(self, x: Function) -> Function:
        """The function over variables of its own."""
        variables = []
        for _, cell in cells(x):
            if id(cell) not in self._done:
                self._kept.append(cell)
                self._done[id(cell)] = types.CellType()
            variables.append(self._done[id(cell)])
        bound = Function(x.__code__, x.__globals__, x.__name__, None, tuple(variables) or None)
        self._done[id(x)] = self._done[id(bound)] = bound  # it may hold itself
        self._kept.append(bound)
        functools.update_wrapper(bound, x, updated=())
        bound.__dict__.pop("__wrapped__", None)
        bound.__defaults__, bound.__kwdefaults__ = self._own(x.__defaults__, x), self._own(x.__kwdefaults__, x)
        for (_, cell), variable in zip(cells(x), variables, strict=True):
            if is_empty(variable) and not is_empty(cell):
                variable.cell_contents = self._own(cell.cell_contents, x)
        vars(bound).update({name: self._own(value, x) for name, value in vars(x).items()})
        return bound

    def _bind_methods(self, module: nn.Module) -> None:
        """Give a module of a class that was defined inside of a function methods over variables of its own."""
        kind: type = type(module)
        if kind not in self._methods:
            self._methods[kind] = _closures(kind)
        self._originals.update({id(function): function for _, function in self._methods[kind]})
        for name, function in self._methods[kind]:
            if name not in vars(module):
                vars(module)[name] = types.MethodType(self._bound(function), module)


def _places(holder: Any) -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """What a mutable object holds, and how to put something else there."""
    if isinstance(holder, dict):
        yield from ((value, functools.partial(holder.__setitem__, key)) for key, value in list(dict.items(holder)))
        if isinstance(holder, defaultdict):
            yield holder.default_factory, functools.partial(setattr, holder, "default_factory")
    elif isinstance(holder, list | deque):
        yield from ((value, functools.partial(holder.__setitem__, index)) for index, value in enumerate(list(holder)))
    elif isinstance(holder, set):
        for value in list(holder):
            yield value, functools.partial(_replace, holder, value)
    if isinstance(holder, nn.Module) or is_instance(holder):
        names = getattr(holder, "__dict__", {})
        yield from ((value, functools.partial(names.__setitem__, name)) for name, value in list(names.items()))
        for name in slots(holder):
            if hasattr(holder, name):
                yield getattr(holder, name), functools.partial(object.__setattr__, holder, name)


def _replace(holder: set[Any], old: Any, new: Any) -> None:
    holder.discard(old)
    holder.add(new)


def _closures(kind: type) -> tuple[tuple[str, Function], ...]:
    """The methods of a class that carry modules or tensors."""
    found: dict[str, Any] = {}
    for base in filter(is_users, reversed(kind.__mro__)):
        found.update(vars(base))
    methods = [(name, value) for name, value in found.items() if isinstance(value, Function)]
    return tuple(
        (name, value)
        for name, value in methods
        if not name.startswith("__") and any(isinstance(x, nn.Module | Tensor) for _, x in walk(value))
    )
