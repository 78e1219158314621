"""Eager: a network run as it is, with masks in the place of its dropout: the reference that programs are checked
against."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.tensors import take_rows, to_array


class EagerRuntime:
    """Runs the module on the inputs of each pair, one call at a time."""

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = device
        self._network = network
        network.module.to(device)
        for module in network.copied.hidden.values():
            if not any(x.is_meta for x in module.parameters()):  # which stand for others
                module.to(device)
        self._lock = threading.Lock()

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(torch.from_numpy(x).to(self.device) for x in inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        taken = torch.from_numpy(rows).to(self.device)
        with self._lock:
            inputs = tuple(x.index_select(0, taken) for x in frontier)
            outputs = self._network.run(inputs, [torch.from_numpy(mask).to(self.device) for mask in masks])
        return tuple(to_array(out) for out in outputs)

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))
