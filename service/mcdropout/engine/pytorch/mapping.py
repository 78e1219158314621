"""Mapping: random calls within `torch.vmap`, which says whether the entries that it maps over share what is drawn."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.predispatch import _add_batch_dim
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters

from mcdropout.engine.errors import UnsupportedModelError

_functorch: Any = torch._C._functorch
_lock = threading.Lock()
_unwarned = 0  # how many are in `unwarned`


def depth() -> int:
    """How many transforms of `torch.func` are running."""
    return len(retrieve_all_functorch_interpreters())


def is_mapped(x: Tensor) -> bool:
    """Whether a tensor is one of those that a map is run over, or stands for one in another transform."""
    return bool(_functorch.is_functorch_wrapped_tensor(x))


def maps(outside: int) -> list[VmapInterpreter]:
    """The maps that are running, outermost first, but for those of the first `outside` transforms."""
    if _functorch.peek_interpreter_stack() is None:
        return []
    running = retrieve_all_functorch_interpreters()[outside:]
    return [each for each in running if isinstance(each, VmapInterpreter)]


def sizes(running: Sequence[VmapInterpreter]) -> tuple[int, ...]:
    """How many entries each of some maps has, of those in which each entry draws for itself."""
    return tuple(each.batch_size() for each in running if each.randomness() == "different")


def mapped(x: Tensor, running: Sequence[VmapInterpreter], path: str) -> Tensor:
    """What the module at `path` draws within some maps, `[*sizes(running), ...]`: for an entry of them, `[...]`.

    Raises:
        UnsupportedModelError: one of them forbids drawing.
    """
    if any(each.randomness() == "error" for each in running):
        raise UnsupportedModelError(
            f"{path or '(network)'} drops within a torch.vmap that forbids it (randomness='error'); "
            "randomness='different', with masks of its own for each entry, or 'same' is accepted"
        )
    for each in running:
        if each.randomness() == "different":
            x = _add_batch_dim(x, 0, each.level())
    return x


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep it from the user that an operator is mapped entry by entry, because it has no rule for more: so would be
    running them one after another, and nothing that the user could change. Then PyTorch warns of it again."""
    global _unwarned
    with _lock:
        _unwarned += 1
        _functorch._set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        with _lock:
            _unwarned -= 1
            if not _unwarned:
                _functorch._set_vmap_fallback_warning_enabled(True)


@contextmanager
def unwound() -> Iterator[None]:
    """Leave no transform of `torch.func` running that was begun within, as exporters do that fail inside of one."""
    before = depth()
    try:
        yield
    finally:
        _functorch.pop_dynamic_layer_stack_and_undo_to_depth(before)
