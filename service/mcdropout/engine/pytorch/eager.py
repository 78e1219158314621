"""Eager: a network run as it is, with masks in the place of its dropout: the reference that programs are checked
against, and what serves where there is no program.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.tensors import take_rows, to_array

# From one pass of a few rows, as the plain loop has it, to a batch with all pairs of a step, as `x.repeat` makes one.
_BATCHES = (8, 32, 128, 512)
_MOST_SECONDS = 0.2  # of all tries of one size, for a larger one to be tried
_TRIES = 3


class EagerRuntime:
    """Runs the module on the inputs of each pair.

    Attributes:
        device: where it computes.
        batch: how many pairs one call of the module takes at most; None for all there are.
    """

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = device
        self.batch: int | None = None
        self._network = network
        self._network.module.to(device)
        self._per_row = [site.scope == "row" for site in network.sites]
        self._lock = threading.Lock()

    def measure(self, source: MaskSource, inputs: tuple[Array, ...]) -> None:
        """Find the `batch` that takes the least time a pair, which takes about a second at most.

        Args:
            source: draws the masks.
            inputs: `[rows, ...]` each.
        """
        frontier, least = self.prefix(inputs), np.inf
        for batch in _BATCHES:
            rows = np.arange(batch, dtype=np.int64) % len(inputs[0])
            masks = source.draw([0] * batch, range(batch), 0, 1)
            self.batch, before = batch, self.batch
            seconds = min(self._seconds(frontier, rows, masks) for _ in range(_TRIES))
            if seconds / batch >= least:
                self.batch = before
            least = min(least, seconds / batch)
            if _TRIES * seconds > _MOST_SECONDS:  # a larger one takes too long to be tried, and to wait for
                break

    def _seconds(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> float:
        start = time.perf_counter()
        self.suffix(frontier, rows, list(masks))
        return time.perf_counter() - start

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(torch.from_numpy(x).to(self.device) for x in inputs)

    @torch.inference_mode()
    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        taken = self._placed(rows)
        placed = [self._placed(mask) for mask in masks]
        size = self.batch or max(1, len(rows))
        with self._lock:
            if len(rows) <= size:
                return tuple(map(to_array, self._network.run([x.index_select(0, taken) for x in frontier], placed)))
            parts = []
            for start in range(0, len(rows), size):
                pairs = slice(start, start + size)
                own = [mask[pairs] if per_row else mask for mask, per_row in zip(placed, self._per_row, strict=True)]
                parts.append(self._network.run([x.index_select(0, taken[pairs]) for x in frontier], own))
        return tuple(to_array(torch.cat(outputs)) for outputs in zip(*parts, strict=True))

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _placed(self, value: Array) -> Tensor:
        placed = torch.from_numpy(value)
        return placed if self.device == "cpu" else placed.to(self.device)
