"""Looks: whether a network's own code takes numbers out of what it computes of its rows, as a length, say, to cut by.

`int(lengths.max())` is of all rows of a batch, so that a row is cut otherwise beside others than alone. No example
shows that for certain: which tokens are padding, for one, only the network's own code knows. Whether a number matters
is seen by handing it another: one that is only compared with a bound (`assert lengths.max().item() <= most`) does not.
What the code branches on (`if done.all():`) is no number; that trials show.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_NUMBERS: set[Any] = {Tensor.item, Tensor.tolist, Tensor.__int__, Tensor.__index__, Tensor.__float__}
_ARRAYS: set[Any] = {Tensor.numpy, Tensor.__array__}
_MADE_AS_LARGE: set[Any] = {torch.arange, torch.zeros, torch.ones, torch.empty}
_PACKING = "_pack_padded_sequence"
_MARK = "_mcdropout_of_rows"


class Looks(TorchFunctionMode):
    """While it is entered, follows what is computed of some tensors.

    Attributes:
        taken: whether a number of theirs was taken out, and may matter.
        numbers: whether a number of theirs became one of Python's, which may be another to see if it matters.
        packed: whether sequences were packed by lengths of theirs, which makes them as long as the longest.
    """

    def __init__(self, inputs: Sequence[Tensor], *, others: bool = False) -> None:
        """`others`: whether code that takes a number out is handed another."""
        super().__init__()
        self.taken = self.packed = self.numbers = False
        self._others = others
        for x in inputs:
            setattr(x, _MARK, True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        cut_by = [end for part in _slices(func, args) for end in (part.start, part.stop) if hasattr(end, _MARK)]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not cut_by and not any(hasattr(x, _MARK) for x in given):
            return func(*args, **kwargs)
        counts = any(x.dtype != torch.bool for x in given)
        if func in _NUMBERS and counts:
            self.numbers = True
            number = func(*args, **kwargs)
            return _another(number) if self._others else number
        takes = func in _ARRAYS and counts
        packs = getattr(func, "__name__", "") == _PACKING
        self.packed |= packs
        self.taken |= takes or bool(cut_by) or func in _MADE_AS_LARGE
        found = func(*args, **kwargs)
        changed = args[:1] if _changes(func) else ()
        # Of a packed sequence only the data are of the rows: how many there are in each step PyTorch itself looks at.
        for value in tree_leaves((found[:1] if packs else found, changed)):
            if isinstance(value, Tensor):
                with suppress(Exception):  # a class of the user's own that takes no attributes
                    setattr(value, _MARK, True)
        return found


def _another(number: Any) -> Any:
    """A number that is a little less, or a list of such."""
    if isinstance(number, list):
        return [_another(each) for each in number]
    return number - 1 if isinstance(number, int) and not isinstance(number, bool) else number * 0.99 - 0.01


def _slices(func: Any, args: Any) -> list[slice]:
    """Those that a tensor is indexed with."""
    if getattr(func, "__name__", "") not in ("__getitem__", "__setitem__"):
        return []
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return [part for part in index if isinstance(part, slice)]


def _changes(func: Any) -> bool:
    """Whether a function changes its first argument."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
