"""Meetings: whether a row's answer can follow the rows beside it, by what a network computes, not by what it is given.

Rows may meet where no example shows it: a column that is padding in all rows is cut, and none is; a layer is left out
where all rows are sure, and none is. So each operation of a pass is looked at by itself. What it takes of one row is
replaced by other numbers, and which entries of its result change says of which rows these are; where entries are of
several rows, or how many there are depends on a row, or a row's number becomes one of Python's, rows meet. That may do
no harm (rows are sorted and put back, a mask is left out that keeps all). To see it, the pass is run on twice from
there with the same numbers for one row and different ones for the others: that row's answer has to be the same.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.runtimes.tensors import to_array

_OF_ROWS, _SOURCE = "_mcdropout_rows", "_mcdropout_source"
MOST_ROWS, _MOST_MEETINGS = 3, 8
_ALL_ROWS = (1 << MOST_ROWS) - 1
_FAR, _LITTLE = 30.0, 3e-5
_PACKING = "_pack_padded_sequence"

_How = Literal["as it is", "random", "low", "high"]
_TRIALS: tuple[tuple[_How, _How, _How], ...] = (
    ("as it is", "random", "random"),
    ("as it is", "low", "high"),
    ("random", "random", "random"),
    ("low", "low", "high"),
    ("high", "low", "high"),
)
"""What a row brings to a meeting, and what the others do the one time and the other."""

_TRIES: tuple[tuple[_How, _How], ...] = (
    ("random", "random"),
    ("as it is", "random"),
    ("low", "high"),
    ("high", "low"),
    ("low", "random"),
)
"""What all rows bring to an operation, and what one of them does then instead."""
_IN_TRAINING = 5  # the place of this among the arguments of `native_batch_norm`
_LEFT_BY_ROWS = {"addmm": 1, "mm": 0}
_BY_FIRST_DIMENSION = {
    *("convolution", "mkldnn_convolution", "bmm", "baddbmm", "native_group_norm", "avg_pool2d", "_adaptive_avg_pool2d"),
    *("max_pool2d_with_indices", "upsample_nearest2d", "upsample_bilinear2d"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math_for_cpu"),
}
"""Operations that take long, of which it is known that the entries of their first dimension do not meet."""


@dataclass(frozen=True)
class _Source:
    """Where entries of rows come from.

    Attributes:
        number: of the operation that they come out of, in its pass; -1 where they are an input's.
        place: of the tensor among those that come out of it, or among the inputs.
        bits: of which rows each entry is, a bit a row.
    """

    number: int
    place: int
    bits: Tensor


@dataclass(frozen=True)
class _Meeting:
    """An operation in which rows meet: its number in its pass, and what it takes."""

    number: int
    sources: tuple[_Source, ...]


@dataclass(frozen=True)
class _Change:
    """What a row and the others bring to a meeting instead of what was there."""

    meeting: _Meeting
    row: int
    own: _How
    others: _How
    seed: int

    def make(self, number: int, outs: Sequence[Tensor]) -> None:
        """Change what comes out of an operation, in place, where it goes to the meeting."""
        for source in self.meeting.sources:
            if source.number == number:
                out, own = outs[source.place], (source.bits & (1 << self.row)) != 0
                others = _other(out, (source.bits != 0) & ~own, self.others, self.seed)
                out.copy_(torch.where(own, _other(out, own, self.own, 0), others))


class _Pass(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, follows which rows what is computed is of, up to the first meeting; or changes one."""

    def __init__(self, harmless: set[int], change: _Change | None = None, most: int | None = None) -> None:
        """`most`: how many operations it lets be, so that a loop which other numbers make endless ends."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self._most = 0, most
        self.meeting: _Meeting | None = None
        self._harmless, self._change = harmless, change
        self._follows = change is None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        number, self.count = self.count, self.count + 1
        if self._most is not None and number > self._most:
            raise RuntimeError("a pass that does not end")
        with torch._C.DisableTorchFunction():
            if self._follows:
                return self._followed(number, func, args, kwargs)
            found = func(*args, **kwargs)
            if self._change is not None:
                self._change.make(number, [*_tensors(found), *_written(func, args, kwargs)])
            return found

    def _followed(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        leaves, form = tree_flatten((args, kwargs))
        bits = [getattr(x, _OF_ROWS, None) if isinstance(x, Tensor) else None for x in leaves]
        if _is_view(func):
            found = func(*args, **kwargs)
            if bits[0] is not None:
                for out, of in zip(_tensors(found), _tensors(func(bits[0], *args[1:], **kwargs)), strict=True):
                    setattr(out, _OF_ROWS, of)
                    setattr(out, _SOURCE, getattr(leaves[0], _SOURCE))
            return found
        bits = [of if of is not None and bool(of.any()) else None for of in bits]
        if all(of is None for of in bits) or "empty" in func.__name__:
            found = func(*args, **kwargs)
            outs = [*_tensors(found), *_written(func, args, kwargs)]
            _note(number, [(out, torch.zeros(out.shape, dtype=torch.uint8)) for out in outs])
            return found
        run = _Operation(func, leaves, form, bits)
        several = [(of & (of - 1)) != 0 for of in run.of_rows]  # more than one bit is set
        meet = not run.outs or run.sized or any(bool(x.any()) for x in several)
        if meet and number not in self._harmless:
            marked = [x for x, of in zip(leaves, bits, strict=True) if of is not None]
            self.meeting = _Meeting(number, tuple({id(x): x for x in (getattr(x, _SOURCE) for x in marked)}.values()))
            self._follows = False
            return run.found
        if func.__name__.startswith(_PACKING):  # how many there are in each step PyTorch itself looks at
            run.of_rows[1] = torch.zeros_like(run.of_rows[1])
        pairs = zip(run.of_rows, several, strict=True)
        known = [torch.zeros_like(of) if bool(many.any()) else of for of, many in pairs]
        _note(number, list(zip(run.outs, known, strict=True)))
        return run.found


class _Operation:
    """An operation, run, and run again with other entries of each row.

    Attributes:
        found: what it gives.
        outs: the tensors of that, and those that it changes.
        of_rows: for each of them, of which rows each entry is, a bit a row.
        sized: whether rows decide how many entries there are.
    """

    def __init__(self, func: Any, leaves: list[Any], form: Any, bits: Sequence[Tensor | None]) -> None:
        args, kwargs = tree_unflatten(leaves, form)
        written = _written(func, args, kwargs)
        self._func, self._form, self._bits = func, form, bits
        self._places = [place for place, x in enumerate(leaves) if any(x is one for one in written)]
        self.sized = False
        marked = [of for of in bits if of is not None]
        if torch.Tag.pointwise in func.tags:
            self.found, self.outs = self._run(leaves)
            joined = functools.reduce(torch.bitwise_or, marked)
            self.of_rows = [joined.expand(out.shape) for out in self.outs]
            return
        before = [x.clone() if place in self._places else x for place, x in enumerate(leaves)]
        self.found, self.outs = self._run(leaves)
        if (first := _in_first_dimension(func.__name__.split(".")[0], leaves, bits)) is not None:
            self.of_rows = [
                first.reshape(-1, *[1] * (out.ndim - 1)).expand(out.shape)
                if out.ndim and len(out) == len(first)
                else torch.zeros(out.shape, dtype=torch.uint8)
                for out in self.outs
            ]
            return
        self.of_rows = [torch.zeros(x.shape, dtype=torch.uint8) for x in self.outs]
        self._try(before)
        if "zeros" not in func.__name__ and "ones" not in func.__name__ and "full" not in func.__name__:
            self._add_what_did_not_show()
        if self.sized:
            bits_of_all = functools.reduce(int.__or__, (bit for of in marked for bit in set(of.flatten().tolist())))
            self.of_rows = [torch.full(x.shape, bits_of_all, dtype=torch.uint8) for x in self.outs]

    def _add_what_did_not_show(self) -> None:
        """Entries follow those in the same places, and all of a row's follow it where some do."""
        marked = [of for of in self._bits if of is not None]
        for of in self.of_rows:
            for same in (one for one in marked if one.shape == of.shape):
                of |= same
            for axis in (axis for axis, size in enumerate(of.shape) if size == MOST_ROWS):
                bits = (1 << torch.arange(MOST_ROWS)).to(torch.uint8)
                in_order = bits.reshape([-1 if each == axis else 1 for each in range(of.ndim)])
                if bool(of.any()) and not bool((of & ~in_order).any()):
                    of |= in_order
                    break

    def _run(self, leaves: list[Any]) -> tuple[Any, list[Tensor]]:
        args, kwargs = tree_unflatten(leaves, self._form)
        found = self._func(*args, **kwargs)
        return found, [*_tensors(found), *(leaves[place] for place in self._places)]

    def _try(self, before: list[Any]) -> None:
        marked = [of for of in self._bits if of is not None]
        rows = [row for row in range(MOST_ROWS) if any(bool((of & (1 << row)).any()) for of in marked)]
        for all_rows, one in _TRIES if self.outs else ():
            base = self._other(before, None, all_rows, 0)
            wanted = self._answer(base)
            for row in rows if wanted is not None else ():
                changed = self._answer(self._other(base, row, one, 1 + row))
                if wanted is None or changed is None:
                    continue
                if [x.shape for x in changed] != [x.shape for x in wanted]:
                    self.sized = True
                elif [x.shape for x in changed] == [x.shape for x in self.outs]:
                    for a, b, of in zip(wanted, changed, self.of_rows, strict=True):
                        of |= _differ(a, b).to(torch.uint8) << row

    def _answer(self, leaves: list[Any]) -> list[Tensor] | None:
        try:
            return self._run([x.clone() if place in self._places else x for place, x in enumerate(leaves)])[1]
        except Exception:  # numbers that the operation does not take
            return None

    def _other(self, leaves: list[Any], row: int | None, how: _How, seed: int) -> list[Any]:
        wanted = _ALL_ROWS if row is None else 1 << row
        return [
            x if of is None else _other(x, (of & wanted) != 0, how, seed)
            for x, of in zip(leaves, self._bits, strict=True)
        ]


def rows_meet(run: Callable[[list[Tensor]], tuple[Tensor, ...]], inputs: Sequence[Tensor], near: float) -> bool:
    """Whether rows meet in what a network computes, so that a row's answer may follow the others.

    Args:
        run: the network, of inputs `[rows, ...]` each.
        inputs: the examples.
        near: how far apart answers may be that are the same, in parts of the largest.
    """
    rows = min(len(inputs[0]), MOST_ROWS)
    harmless: set[int] = set()
    trials = _Trials(run, [x[:rows] for x in inputs], near)
    for _ in range(_MOST_MEETINGS):
        copies = [x[:rows].clone() for x in inputs]
        bits = (1 << torch.arange(rows)).to(torch.uint8)
        _note(-1, [(x, bits.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)) for x in copies])
        follower = _Pass(harmless)
        try:
            with follower:
                run(copies)
        except Exception:  # what cannot be followed, only trials show
            return False
        if follower.meeting is None:
            return False
        if not trials.are_passed(follower.meeting, 10 * follower.count + 100):
            return True
        harmless.add(follower.meeting.number)
    return True


class _Trials:
    """Passes that go on from a meeting with other numbers."""

    def __init__(
        self, run: Callable[[list[Tensor]], tuple[Tensor, ...]], inputs: Sequence[Tensor], near: float
    ) -> None:
        self._run, self._inputs, self._near = run, inputs, near

    def are_passed(self, meeting: _Meeting, most: int) -> bool:
        """Whether the answer of a row is the same, whatever the others bring to a meeting, in `most` operations."""
        wanted = self._outputs(None, most)
        last = len(self._inputs[0]) - 1
        for row, (own, *others) in [(0, each) for each in _TRIALS] + [(last, each) for each in _TRIALS[:2]]:
            try:
                changes = [_Change(meeting, row, own, how, seed) for seed, how in enumerate(others, 1)]
                found = [self._outputs(change, most) for change in changes]
            except UnsupportedModelError:  # masks do not fit, or there are none, because of the others
                if own == "as it is":
                    return False
                continue
            if own == "as it is":
                found.append(wanted)
            answers = [outputs for outputs in found if outputs is not None]
            if not all(self._same(answers[0], each, row) for each in answers[1:]):
                return False
        return True

    def _outputs(self, change: _Change | None, most: int) -> tuple[Tensor, ...] | None:
        copies = [x.clone() for x in self._inputs]
        if change is not None:
            change.make(-1, copies)
        try:
            with nullcontext() if change is None else _Pass(set(), change, most):
                return self._run(copies)
        except UnsupportedModelError:
            raise
        except Exception:  # numbers that the network does not take
            return None

    def _same(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...], row: int) -> bool:
        return all(are_near(to_array(a[row]), to_array(b[row]), self._near) for a, b in zip(some, others, strict=True))


def are_near(a: Array, b: Array, share: float) -> bool:
    """Whether numbers are the same but for a share of the largest, NaN being NaN."""
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return a.shape == b.shape and np.allclose(a, b, rtol=0.0, atol=share * largest, equal_nan=True)


def _other(x: Tensor, where: Tensor, how: _How, seed: int) -> Tensor:
    """A tensor with other numbers in some places, of the size of those in it."""
    if how == "as it is" or x.numel() == 0 or x.is_complex():
        return x
    if x.dtype == torch.bool:
        low, high = 0.0, 1.0
    elif x.is_floating_point():
        values = x[torch.isfinite(x)].float()
        mean, spread = (float(values.mean()), float(values.std(correction=0))) if values.numel() else (0.0, 1.0)
        far = (abs(mean) + 3 * spread + 1e-6) * (1 if how == "random" else _FAR)
        low, high = mean - far, mean + far
        if values.numel() and values.min() >= 0:  # as what is squared, or counted, always is
            low = max(low, 0.0)
        if values.numel() and values.max() <= 0:
            high = min(high, 0.0)
    else:
        low, high = float(x.min()), float(x.max())
        low, high = min(low, 0.0), max(high, 1.0)
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    if how == "high":
        other = torch.full(x.shape, high)
    elif x.is_floating_point():
        other = low + drawn * (_LITTLE * far if how == "low" else high - low)
    else:  # the lowest are not all the same, where that is possible: what is made of zeros alone shows nothing
        most = high if how == "random" else min(low + 1, high - 1)
        other = (low + drawn * (most - low)).round()
    return torch.where(where, other.to(x.dtype), x)


def _in_first_dimension(name: str, leaves: Sequence[Any], bits: Sequence[Tensor | None]) -> Tensor | None:
    """Of which rows the entries in the first dimension of an operation's result are; None where that is not known."""
    marked = [place for place, of in enumerate(bits) if of is not None]
    if name == "native_layer_norm":
        known = marked == [0] and leaves[0].ndim > sum(isinstance(x, int) for x in leaves)
    elif name in ("_softmax", "_log_softmax"):
        known = leaves[1] % leaves[0].ndim > 0
    elif name == "native_batch_norm":
        known = marked == [0] and leaves[_IN_TRAINING] is False
    else:
        known = name in _BY_FIRST_DIMENSION or marked == [_LEFT_BY_ROWS.get(name)]
    first: Tensor | None = None
    for of in (of for of in bits if known and of is not None):
        flat = of.reshape(len(of), -1)
        each = flat.amax(1)
        if not torch.equal(each, flat.amin(1)) or (first is not None and len(first) != len(each)):
            return None
        first = each if first is None else first | each
    return first


def _note(number: int, found: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep of which rows the entries of tensors are that come out of an operation."""
    for place, (out, of) in enumerate(found):
        known = getattr(out, _OF_ROWS, None)
        if known is not None and known.shape == out.shape:  # written in place: views of it share what is known
            known.copy_(of.expand(out.shape))
        else:
            setattr(out, _OF_ROWS, torch.empty_strided(out.shape, out.stride(), dtype=torch.uint8).copy_(of))
        setattr(out, _SOURCE, _Source(number, place, getattr(out, _OF_ROWS).clone()))


def _is_view(func: Any) -> bool:
    aliases = [x.alias_info for x in func._schema.returns if x.alias_info is not None]
    return func.__name__.startswith("_unsafe_view") or any(not alias.is_write for alias in aliases)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation changes."""
    found = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[number] if number < len(args) else kwargs.get(argument.name))
    return found


def _tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def _differ(a: Tensor, b: Tensor) -> Tensor:
    different = a != b
    return different & ~(a.isnan() & b.isnan()) if a.is_floating_point() else different
