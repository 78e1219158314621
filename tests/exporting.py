"""PyTorch's exporter to ONNX without what it does anew for each graph, though it comes to the same each time.

It parses the source of a thousand functions of its own for each call of `torch.onnx.export`, which is half of what the
compilation of a small network takes, and most networks of these tests are small.
"""

from copy import copy
from functools import cache
from typing import Any

from torch.onnx._internal.exporter import _registration

_Registry = _registration.ONNXRegistry


@cache
def export_quickly() -> None:
    """Have this process parse them once."""
    parsed = cache(_Registry.from_torchlib)

    def registry(_: object, *given: Any, **named: Any) -> _Registry:
        own = copy(parsed(*given, **named))
        own.functions = {target: list(functions) for target, functions in own.functions.items()}
        return own

    _Registry.from_torchlib = classmethod(registry)
