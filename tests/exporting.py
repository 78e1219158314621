"""PyTorch's exporters without what they do anew for each graph, though it comes to the same each time.

For each decomposition a thousand operators are looked up once a namespace, and hundreds given twenty kernels each,
twice: most of what the compilation of a small network takes, and most networks of these tests are small.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._export import utils
from torch._ops import OperatorBase
from torch._subclasses import fake_impls
from torch.export import exported_program

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@cache
def export_quickly() -> None:
    """Have this process do that once."""
    _look_up_once()
    _override_once()


def _look_up_once() -> None:
    look_up = utils._materialize_cpp_cia_ops
    known: tuple[frozenset[str], frozenset[str]] | None = None

    def look_up_new() -> None:
        nonlocal known
        defined = frozenset(torch.library._defs), frozenset(torch.ops.loaded_libraries)
        if defined != known:  # a test may register operators of its own
            look_up()
            known = defined

    utils._materialize_cpp_cia_ops = look_up_new


def _override_once() -> None:
    """What PyTorch gives an operator for the time of a decomposition is kept, and given again where it was as it is."""
    override_anew = exported_program._override_composite_implicit_decomp
    rules: dict[OperatorBase, Any] = fake_impls.op_implementations_dict
    known: dict[OperatorBase, tuple[Any, dict[Any, Any], Any]] = {}

    @contextmanager
    def override(decompositions: Mapping[OperatorBase, Callable[..., Any]]) -> Iterator[None]:
        kernels = {op: dict(op.py_kernels) for op in decompositions}
        for op, decomposition in decompositions.items():
            before = kernels[op], rules.get(op)
            if op not in known or known[op][0] != before:
                with override_anew({op: decomposition}):
                    known[op] = before, dict(op.py_kernels), rules.get(op)
            _, within, rule = known[op]
            op.py_kernels.update({**within, _COMPOSITE: decomposition})
            op._dispatch_cache.clear()
            rules[op] = rule
        try:
            yield
        finally:
            for op, before_it in kernels.items():
                op.py_kernels.clear()
                op.py_kernels.update(before_it)
                op._dispatch_cache.clear()
                fake_impls._deregister_op_impl(op)

    exported_program._override_composite_implicit_decomp = override
