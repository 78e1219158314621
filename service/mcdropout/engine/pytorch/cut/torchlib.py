"""Torchlib: how PyTorch's operators are written as ONNX, read once a process.

`torch.onnx.export` reads it anew at each call, from the source of five hundred functions: half a second, which is half
of what a small network takes to convert. There is no argument for it, so what reads it is replaced for the call.
"""

import contextlib
import functools
from collections.abc import Iterator
from threading import Lock
from unittest import mock

from torch.onnx._internal.exporter._registration import ONNXRegistry

_read = functools.cache(ONNXRegistry.from_torchlib)
_lock = Lock()


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Have calls of `torch.onnx.export` share what they read. They change nothing in it but for custom translations."""
    with _lock, mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(_read)):
        yield
