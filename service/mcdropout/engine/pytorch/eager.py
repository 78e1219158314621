"""Eager: a network run as it is, with masks in the place of its dropout: the reference that programs are checked
against, and what serves where there is no program.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.masks import Masks, MaskSource
from mcdropout.engine.pytorch.batches import Batches
from mcdropout.engine.pytorch.decisions import Decisions, extreme_draws
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.tensors import joined, take_rows
from mcdropout.engine.sites import Site
from mcdropout.engine.verify import close, dropping_often

_PASSES = (4, 16, 64)  # that are tried in one call
_LOOKED_AT = 8  # passes, each beside those that draw what hardly any does
_TRIES = 2
_MOST_SECONDS = 0.4  # of those passes one after another, for more to be tried


class EagerRuntime:
    """Runs the module on the inputs of each pair.

    Attributes:
        device: where it computes.
        batches: how many pairs one call of the module takes.
        decisions: runs passes that decide alike in one call, where rows share what these go by; None where they do not.
    """

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = device
        self.batches = Batches()
        self.decisions: Decisions | None = None
        self._network = network
        network.module.to(device)
        for module in network.copied.hidden.values():
            if not any(x.is_meta for x in module.parameters()):  # which stand for others
                module.to(device)
        self._lock = threading.Lock()

    def at(self, sites: Sequence[Site]) -> "EagerRuntime":
        """The same for inputs of other sizes, at which the sites are as given; one of them runs at a time."""
        runtime = copy.copy(self)
        runtime._network = self._network.at(sites)
        if self.decisions is not None:
            runtime.decisions = Decisions(runtime._network, self.decisions.most_pairs, self.decisions.questions)
        return runtime

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(torch.from_numpy(x).to(self.device) for x in inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        network, placed = self._network, [self._placed(mask) for mask in masks]
        taken = self._placed(rows)
        if network.repeats > 1:
            run, parts = network.run_as_one, _row_by_row(taken, placed, network.repeats)
        else:
            run, parts = network.run, self.batches.cut(taken, placed)
        with self._lock:
            return joined([run([x.index_select(0, each) for x in frontier], own) for each, own in parts])

    def passes(
        self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: Sequence[Masks]
    ) -> list[tuple[Array, ...]]:
        """What `suffix` gives for each of several passes, under the masks of each."""
        if self.decisions is None or 2 * len(rows) > self.decisions.most_pairs:
            return [self.suffix(frontier, rows, each) for each in masks]
        taken = self._placed(rows)
        placed = [[self._placed(mask) for mask in each] for each in masks]
        with self._lock:
            found = self.decisions.run([x.index_select(0, taken) for x in frontier], placed)
        return [joined([outputs]) for outputs in found]

    def decide(self, source: MaskSource, inputs: tuple[Array, ...], tolerance: float) -> None:
        """Find out whether passes that decide alike may be one call, how many pairs of them, and whether that pays.

        Args:
            source: draws the masks.
            inputs: `[rows, ...]` each.
            tolerance: how far the answer to a pass may be from that of the pass alone.
        """
        if not Decisions.may_be(self._network):
            return
        try:
            self.decisions = self._decisions(source, inputs, tolerance)
        except Exception:  # whatever the network raises of so many rows, or of such numbers
            self.decisions = None

    def _decisions(self, source: MaskSource, inputs: tuple[Array, ...], tolerance: float) -> Decisions | None:
        """As `decide`."""
        rows, draws = len(inputs[0]), dropping_often(source)
        self.decisions = tried = Decisions(self._network, 0, learning=True)
        places, frontier = np.arange(rows, dtype=np.int64), self.prefix(inputs)

        def one_by_one(masks: Sequence[Masks]) -> tuple[float, tuple[Array, ...]]:
            return _timed(lambda: [self.suffix(frontier, places, each) for each in masks])

        def together(masks: Sequence[Masks]) -> tuple[float, tuple[Array, ...]]:
            tried.most_pairs = 2 * rows * len(masks)
            self.passes(frontier, places, masks)  # what parts passes is found out
            return _timed(lambda: self.passes(frontier, places, masks))

        many = draws.draw_each([0] * rows, range(rows), 0, _PASSES[-1])
        extremes = extreme_draws(source.sites, many)
        for masks in ([each, *extremes] for each in many[:_LOOKED_AT]):
            placed = [[self._placed(mask) for mask in each] for each in masks]
            if not tried.is_for_nothing_else([x.index_select(0, self._placed(places)) for x in frontier], placed):
                return None
        if not close("", together(extremes)[1], one_by_one(extremes)[1], tolerance).passed:
            return None
        size, least = 0, np.inf
        for count in _PASSES:
            alone, wanted = one_by_one(many[:count])
            taken, answers = together(many[:count])
            if not close("", answers, wanted, tolerance).passed:
                return None
            if taken / count < least:
                least, size = taken / count, rows * count if taken < alone else 0
            if alone > _MOST_SECONDS:
                break
        return Decisions(self._network, size, tried.questions) if size else None

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _placed(self, value: Array) -> Tensor:
        placed = torch.from_numpy(value)
        return placed if self.device == "cpu" else placed.to(self.device)


def _timed(run: Callable[[], list[tuple[Array, ...]]]) -> tuple[float, tuple[Array, ...]]:
    """How many seconds some passes take at least, and what they answer, one behind another."""
    least, found = np.inf, []
    for _ in range(_TRIES):
        start = time.perf_counter()
        found = run()
        least = min(least, time.perf_counter() - start)
    return float(least), tuple(map(np.concatenate, zip(*found, strict=True)))


def _row_by_row(rows: Tensor, masks: list[Tensor], most: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Pairs of the same row that follow one another, so many at most, and their masks; each mask is a pair's own."""
    first, numbers = 0, rows.tolist()
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[first] or end - first == most:
            yield rows[first:end], [mask[first:end] for mask in masks]
            first = end
