"""Nesting: inputs that lie in lists, tuples and dicts, as many networks take a batch.

Everywhere but at the network itself inputs are flat, and have names: the path to each, with dots between its parts. So
`forward(batch)` that takes `{"ids": ids, "mask": mask}` has the inputs "0.ids" and "0.mask" where it is called by
position, and "batch.ids" and "batch.mask" by keyword. No keyword of Python has a dot in it, and none begins with a
digit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def flattened(x: Any) -> Any:
    """Inputs by their paths, where some lie in lists, tuples or dicts; else as they are.

    Args:
        x: one input, a tuple of them by position, or a mapping by keyword.
    """
    if not isinstance(x, tuple | Mapping):
        return x  # by itself, a list of arrays is one array, row by row
    parts = x.items() if isinstance(x, Mapping) else enumerate(x)
    named = [(str(key), value) for key, value in parts]
    if not any(_holds_arrays(value) for _, value in named):
        return x
    return {path: leaf for key, value in named for path, leaf in _leaves(key, value)}


def is_path(name: str) -> bool:
    """Whether a name is a path, or a position."""
    return "." in name or name.isdigit()


def nested(names: Sequence[str], values: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network is called with, by position and by keyword, where names are paths."""
    whole: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        *before, last = name.split(".")
        place = whole
        for part in before:
            place = place.setdefault(part, {})
        place[last] = value
    positions = sorted((key for key in whole if key.isdigit()), key=int)
    by_name = {key: _as_given(value) for key, value in whole.items() if not key.isdigit()}
    return tuple(_as_given(whole[key]) for key in positions), by_name


def _as_given(value: Any) -> Any:
    """A dict whose keys are positions as the list that it stands for."""
    if not isinstance(value, dict):
        return value
    if all(key.isdigit() for key in value):
        return [_as_given(value[key]) for key in sorted(value, key=int)]
    return {key: _as_given(part) for key, part in value.items()}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not _holds_arrays(value):
        yield path, value
        return
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, part in parts:
        yield from _leaves(f"{path}.{key}", part)


def _holds_arrays(value: Any) -> bool:
    """Whether something is a container of arrays, and not an array written as lists of numbers."""
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, list | tuple):
        return False
    return any(hasattr(part, "shape") or _holds_arrays(part) for part in value)
