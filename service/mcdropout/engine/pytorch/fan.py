"""Fans: passes of one row in one batch, for a network that makes some random calls for each row by itself.

What a row alone draws in one call, a batch of passes draws in one call for all of them, or in one for each. Which call
is whose shows in how many there are and in their shapes; that it is so is for whoever uses a fan to try.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from mcdropout.engine.pytorch.random_call import Call, CallKey, Form, Mask, begun

_FEW, _MORE = 2, 3  # passes, by which calls are told apart


class OtherCallsError(Exception):
    """A batch makes other random calls than its fan says."""


class Part(NamedTuple):
    """What a call in a batch of passes draws.

    Attributes:
        call: which call of a row alone it stands for, by its key.
        form: that of both.
        number: of the only pass that it is made for; None where it is made for all.
        axis: the dimension in which all passes have their entries, one pass behind another.
    """

    call: CallKey
    form: Form
    number: int | None
    axis: int = 0

    def mask(self, masks: Mask, shape: Sequence[int], passes: int) -> Mask:
        """Its mask, given `masks`, `[passes, ...]`, in the dimensions of the call of a row alone, and its own shape."""
        if masks is None:
            return None
        if isinstance(masks, tuple):
            factor, summand = (self.mask(each, shape, passes) for each in masks)
            assert isinstance(factor, Tensor)
            assert isinstance(summand, Tensor)
            return factor, summand
        if self.number is not None:
            return begun(masks[self.number], shape)
        alone = [size // passes if place == self.axis else size for place, size in enumerate(shape)]
        own = begun(masks, [passes, *alone])
        assert isinstance(own, Tensor)
        return own.movedim(0, self.axis).flatten(self.axis, self.axis + 1)


@dataclass(frozen=True)
class _Run:
    """Calls of a row alone that follow one another in a module: one that is made for all passes along `axis`, or some
    that each pass makes."""

    calls: tuple[tuple[int, Form], ...]
    axis: int | None


@dataclass(frozen=True)
class Fan:
    """What the random calls of a batch of passes stand for.

    Attributes:
        in_turn: whether of some calls that each pass makes all are made for one pass before any for the next.
    """

    runs: Mapping[str, tuple[_Run, ...]]
    in_turn: bool

    def parts(self, passes: int) -> dict[CallKey, Part]:
        """What each call of so many passes stands for, by its module and its number there."""
        found: dict[CallKey, Part] = {}
        for path, runs in self.runs.items():
            parts = (part for run in runs for part in self._parts_of(path, run, passes))
            found |= {(path, number): part for number, part in enumerate(parts)}
        return found

    def _parts_of(self, path: str, run: _Run, passes: int) -> list[Part]:
        if run.axis is not None:
            return [Part((path, number), form, None, run.axis) for number, form in run.calls]
        numbers = range(passes)
        if self.in_turn:
            return [Part((path, number), form, each) for each in numbers for number, form in run.calls]
        return [Part((path, number), form, each) for number, form in run.calls for each in numbers]


def fans(alone: Sequence[Call], few: Sequence[Call], more: Sequence[Call]) -> Iterator[Fan]:
    """What the calls of batches may stand for: none where they do not follow from those of a row alone.

    Args:
        alone: the random calls of a row, in order.
        few, more: those of `_FEW` and of `_MORE` times the same row.
    """
    runs: dict[str, tuple[_Run, ...]] = {}
    by_module = [_by_module(calls) for calls in (alone, few, more)]
    for path in {path for modules in by_module for path in modules}:
        found = _runs(*(modules.get(path, []) for modules in by_module))
        if found is None:
            return
        runs[path] = found
    for in_turn in (True, False):
        yield Fan(runs, in_turn)
        if all(len(run.calls) == 1 for each in runs.values() for run in each):
            return


def repeated(inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """The first of some rows alone, and as often as `fans` wants to see it."""
    return [[torch.cat([x[:1]] * count) for x in inputs] for count in (1, _FEW, _MORE)]


def _by_module(calls: Sequence[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.path, []).append(call)
    return found


def _runs(alone: list[Call], few: list[Call], more: list[Call]) -> tuple[_Run, ...] | None:
    """How a module's calls become those of batches; None where that cannot be told."""
    axes: list[int | None] = []
    seen, seen_of_more = 0, 0  # how many calls of each batch belong to those looked at
    for call in alone:
        axis = _axis(call, few[seen:], _FEW)
        if axis != _axis(call, more[seen_of_more:], _MORE):
            return None
        axes.append(axis)
        seen += _FEW if axis is None else 1
        seen_of_more += _MORE if axis is None else 1
    if seen != len(few) or seen_of_more != len(more):
        return None
    found: list[_Run] = []
    for axis, run in groupby(enumerate(zip(alone, axes, strict=True)), key=lambda pair: pair[1][1]):
        calls = tuple((number, call.form) for number, (call, _) in run)
        found += [_Run(calls, None)] if axis is None else [_Run((call,), axis) for call in calls]
    return tuple(found)


def _axis(call: Call, following: Sequence[Call], passes: int) -> int | None:
    """The dimension in which the next call of a batch has the entries of all its passes; None where each makes its
    own."""
    if not following or following[0].form != call.form:
        return None
    sizes = list(zip(call.mask_shape, following[0].mask_shape, strict=True))
    other = [place for place, (own, size) in enumerate(sizes) if own != size]
    if len(other) != 1 or sizes[other[0]][1] != passes * sizes[other[0]][0]:
        return None
    return other[0]
