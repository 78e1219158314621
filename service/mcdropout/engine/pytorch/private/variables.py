"""Global variables that the code of a network names."""

import dis
import functools
import sysconfig
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mcdropout.engine.pytorch.private.held import Function, is_instance, is_users, walk

MISSING = object()
"""The value of a variable that code would set, and that is not there."""
_CALLED = ("forward", "eval", "train", "state_dict")
_NOT_CALLED = ("__init__", "__repr__", "__init_subclass__")
_NAMING = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@dataclass(frozen=True)
class Variable:
    """A global variable.

    Attributes:
        function: what names it.
        name: its name.
        value: its value.
        variables: where it lies: in the function's own file, or in one that this imports.
    """

    function: Function
    name: str
    value: Any
    variables: dict[str, Any]


def globals_named(things: Iterable[Any]) -> Iterator[Variable]:
    """The global variables that code of a network names.

    Looked at are functions among `things`, what runs of the classes of the objects among them, but of PyTorch's, and
    functions that those call, but of libraries.
    """
    waiting, seen = list(_functions_of(things)), set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        for variable in _named_by(function):
            yield variable
            value = variable.value
            if isinstance(value, Function) and not _is_library(value.__code__.co_filename):
                waiting.append(value)


def _named_by(function: Function) -> Iterator[Variable]:
    attributes = {name for code in _codes(function.__code__) for name in code.co_names}
    for name in _names(function.__code__):
        value = function.__globals__.get(name, MISSING)
        yield Variable(function, name, value, function.__globals__)
        if isinstance(value, types.ModuleType) and not _is_library(getattr(value, "__file__", None)):
            held = vars(value)
            yield from (Variable(function, inner, held[inner], held) for inner in attributes & held.keys())


def _is_library(file: str | None) -> bool:
    return file is None or file.startswith(_LIBRARIES)


def _functions_of(things: Iterable[Any]) -> Iterator[Function]:
    classes: dict[type, None] = {}
    for x in things:
        if isinstance(x, Function):
            yield x
        elif isinstance(x, nn.Module) or is_instance(x):
            classes[type(x)] = None
    for kind in classes:
        for method in _run_methods(kind):
            yield from (x for _, x in walk(method) if isinstance(x, Function))


def _run_methods(kind: type) -> Iterator[Function]:
    """The methods of a class, but PyTorch's, that run when its objects are called, copied, or put into a mode."""
    methods: dict[str, list[Function]] = {}
    for base in filter(is_users, kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Function):
                methods.setdefault(name, []).append(value)
    waiting = [name for name in methods if name in _CALLED or (name.startswith("__") and name not in _NOT_CALLED)]
    seen = set(waiting)
    while waiting:
        for method in methods[waiting.pop()]:
            yield method
            named = {name for code in _codes(method.__code__) for name in code.co_names} & methods.keys()
            waiting += named - seen
            seen |= named


@functools.lru_cache(4096)
def _names(code: types.CodeType) -> frozenset[str]:
    """The global variables that code names, and the functions inside of it."""
    instructions = (instruction for part in _codes(code) for instruction in dis.get_instructions(part))
    return frozenset(instruction.argval for instruction in instructions if instruction.opname in _NAMING)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
