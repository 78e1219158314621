"""Eager: a network run as it is, with masks in the place of its dropout: the reference that programs are checked
against, and what serves where there is no program.
"""

import copy
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.pytorch.batches import Batches
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.tensors import joined, take_rows
from mcdropout.engine.sites import Site


class EagerRuntime:
    """Runs the module on the inputs of each pair.

    Attributes:
        device: where it computes.
        batches: how many pairs one call of the module takes.
    """

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = device
        self.batches = Batches()
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

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _placed(self, value: Array) -> Tensor:
        placed = torch.from_numpy(value)
        return placed if self.device == "cpu" else placed.to(self.device)


def _row_by_row(rows: Tensor, masks: list[Tensor], most: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Pairs of the same row that follow one another, so many at most, and their masks; each mask is a pair's own."""
    first, numbers = 0, rows.tolist()
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[first] or end - first == most:
            yield rows[first:end], [mask[first:end] for mask in masks]
            first = end
