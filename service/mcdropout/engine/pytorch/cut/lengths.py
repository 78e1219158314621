"""Lengths: `len(x)` in a network's code, which Python makes a number where an exporter needs a size that may differ."""

import builtins
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def open_lengths() -> Iterator[None]:
    """While it is entered, `len` of a tensor is its first size, as `x.shape[0]` gives it.

    Python's own makes an int of it, and a network that asks `len(x)` for its rows would be exported for as many as the
    examples have, and for no others. For what other threads ask meanwhile, both are the same.
    """
    global _entered
    with _lock:
        _entered += 1
        builtins.len = _length
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                builtins.len = _len


_lock = threading.Lock()
_entered = 0  # how many times, by whatever threads
_len = len


def _length(x: Any) -> Any:
    return x.shape[0] if isinstance(x, Tensor) and x.dim() else _len(x)
