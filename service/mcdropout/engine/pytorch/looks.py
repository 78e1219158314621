"""Looks: what of all its rows a network's own code goes by, as the length of the longest, say, to cut by.

`int(lengths.max())` is of all rows of a batch, so that a row is cut otherwise beside others than alone; sequences that
were packed are as long as the longest when they are unpacked. No example shows that for certain: which tokens are
padding, for one, only the network's own code knows. Whether it matters is seen by handing the code another number, or
another step: a number that is only compared with a bound (`assert lengths.max().item() <= most`) does not, nor does a
step that is left out. What the code branches on (`if done.all():`) is no number: that `meetings` and trials show, for
which the numbers are kept that it compares with: one of them is what it takes for padding.
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
_PACKING, _UNPACKING = "_pack_padded_sequence", "_pad_packed_sequence"
_COMPARING = {"eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal"}
_MOST_COMPARED = 4
_MARK = "_mcdropout_of_rows"


class Looks(TorchFunctionMode):
    """While it is entered, follows what is computed of some tensors.

    Attributes:
        taken: whether a number of theirs was taken out, and may matter.
        numbers: whether a number of theirs became one of Python's, which may be another to see if it matters.
        packed: whether sequences were packed by lengths of theirs, which makes them as long as the longest.
        unpacked: whether what was packed became as long as the longest, and not of a length of the code's own.
        compared: numbers that they were compared with, the first few.
    """

    def __init__(
        self, inputs: Sequence[Tensor], *, others: bool = False, cut: bool = False, longer: bool = False
    ) -> None:
        """Follow `inputs`.

        Args:
            inputs: `[rows, ...]` each.
            others: whether code that takes a number out is handed another.
            cut: whether sequences are packed to a single step each.
            longer: whether what is unpacked is a step longer, as it is beside a longer row.
        """
        super().__init__()
        self.taken = self.packed = self.unpacked = self.numbers = False
        self.compared: list[float] = []
        self._others, self._cut, self._longer = others, cut, longer
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
        name = getattr(func, "__name__", "")
        if name.strip("_") in _COMPARING:
            self._keep(args[1:])
        packs = name == _PACKING
        if packs and self._cut:
            args = (args[0], args[1].clamp(max=1), *args[2:])
        if name == _UNPACKING and args[4] == len(args[1]):
            self.unpacked = True
            args = (*args[:4], args[4] + self._longer)
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

    def _keep(self, compared: Sequence[Any]) -> None:
        for each in compared[:1]:
            number = each.item() if isinstance(each, Tensor) and each.numel() == 1 else each
            known = number in self.compared or len(self.compared) == _MOST_COMPARED
            if isinstance(number, int | float) and not isinstance(number, bool) and not known:
                self.compared.append(number)


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
