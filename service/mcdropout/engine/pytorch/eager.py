"""Eager: a network run as it is, with masks in the place of its dropout: the reference that programs are checked
against, and what serves where there is no program.
"""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.batches import Batches
from mcdropout.engine.runtimes.tensors import joined, take_rows


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
        self._network.module.to(device)
        self._lock = threading.Lock()

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(torch.from_numpy(x).to(self.device) for x in inputs)

    @torch.inference_mode()
    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        placed = [self._placed(mask) for mask in masks]
        with self._lock:
            parts = [
                self._network.run([x.index_select(0, taken) for x in frontier], own)
                for taken, own in self.batches.cut(self._placed(rows), placed)
            ]
        return joined(parts)

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _placed(self, value: Array) -> Tensor:
        placed = torch.from_numpy(value)
        return placed if self.device == "cpu" else placed.to(self.device)
