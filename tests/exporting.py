"""PyTorch's exporters without what they do anew for each graph, though it comes to the same each time.

For each call of `torch.onnx.export` the source of a thousand functions of its own is parsed, and for each decomposition
a thousand operators are looked up once a namespace: most of what the compilation of a small network takes, and most
networks of these tests are small.
"""

from copy import copy
from functools import cache
from typing import Any

import torch
from torch._export import utils
from torch.onnx._internal.exporter import _registration

_Registry = _registration.ONNXRegistry
_COMPOSITE = "CompositeImplicitAutograd"


@cache
def export_quickly() -> None:
    """Have this process do that once."""
    _parse_once()
    _look_up_once()


def _parse_once() -> None:
    parsed = cache(_Registry.from_torchlib)

    def registry(_: object, *given: Any, **named: Any) -> _Registry:
        own = copy(parsed(*given, **named))
        own.functions = {target: list(functions) for target, functions in own.functions.items()}
        return own

    _Registry.from_torchlib = classmethod(registry)


def _look_up_once() -> None:
    look_up, known = utils._materialize_cpp_cia_ops, 0

    def look_up_new() -> None:
        nonlocal known
        registered = len(torch._C._dispatch_get_registrations_for_dispatch_key(_COMPOSITE))
        if registered != known:  # a test may register operators of its own
            look_up()
            known = registered

    utils._materialize_cpp_cia_ops = look_up_new
