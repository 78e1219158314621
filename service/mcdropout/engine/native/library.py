"""The library that the sources beside it are compiled to, loaded when it is first needed.

It is a plain shared library, called through ctypes, which lets other threads of Python run meanwhile, unless the call
is short.
"""

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_INTERFACE = 3  # of the sources: changes with the structures and functions there


def available() -> bool:
    """Whether the extension was built, of this version."""
    return _loaded(ctypes.CDLL) is not None


def library() -> ctypes.CDLL:
    """Its functions; only where it is `available`."""
    return _required(_loaded(ctypes.CDLL))


def locked_library() -> ctypes.CDLL:
    """The same functions, called without leaving the interpreter's lock."""
    return _required(_loaded(ctypes.PyDLL))


def _required(loaded: ctypes.CDLL | None) -> ctypes.CDLL:
    assert loaded is not None, "the C extension was not built"
    return loaded


def _place() -> str | None:
    """Where the library is.

    An installation in place that is older left it under a name with a version of Python in it, which would be found
    first.
    """
    place = Path(__file__).with_name("_native.so")
    if place.exists():
        return str(place)
    found = importlib.util.find_spec("mcdropout.engine.native._native")
    return None if found is None else found.origin


@functools.cache
def _loaded(kind: type[ctypes.CDLL]) -> ctypes.CDLL | None:
    place = _place()
    if place is None:
        return None
    address, number, double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    chain: tuple[list[Any], list[Any]] = ([address, number, *[address] * 2], [number, number, *[address] * 3])
    taken: dict[str, list[Any]] = {
        "masked_chain": [*chain[0], address, *chain[1]],
        "drawn_chain": [*chain[0], address, address, number, address, *chain[1]],
        "wait_for": [address, number],
        "draw_masks": [address, number, number, address, number, number, address],
        "philox_words": [address, number, ctypes.c_uint64, number, address],
        "class_sums": [address, *[number] * 4, double, *[address] * 5],
        "label_sums": [address, *[number] * 4, double, double, *[address] * 6],
        "combination_sums": [address, *[number] * 3, address],
        "value_sums": [address, *[number] * 3, *[address] * 2],
        "mixture_quantiles": [*[address] * 3, *[number] * 2, *[address] * 2, *[number] * 2, address],
    }
    try:
        loaded = kind(place)
        for name, types in taken.items():
            function = loaded[name]
            function.argtypes, function.restype = types, None
            setattr(loaded, name, function)
        scratch, built = loaded.masked_chain_scratch, loaded.interface_version
    except (OSError, AttributeError):  # built for another machine, or of another version
        return None
    built.argtypes, built.restype = [], number
    if built() != _INTERFACE:
        return None
    scratch.argtypes, scratch.restype = [address, number, number, number], number
    return loaded


def check_array(array: npt.NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array is contiguous, and of this dtype and shape."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"an array is {array.dtype} {list(array.shape)}; contiguous {np.dtype(dtype)} {list(shape)} is accepted"
        )


def address_of(array: npt.NDArray[Any]) -> int:
    """Where the numbers of an array begin.

    `array.ctypes.data` says the same in five times the time, which is that of summing up a row.
    """
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (BufferError, TypeError, ValueError):  # it is empty, strided, or not to be written to
        return array.ctypes.data
