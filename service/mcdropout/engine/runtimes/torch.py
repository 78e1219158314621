"""PyTorch: the split graph on CPU or CUDA, and the plain eager module, against which every program is checked."""

import copy
import threading

import numpy as np
import numpy.typing as npt
import torch

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.pytorch.cut.split import Split
from mcdropout.engine.pytorch.network import Network, to_array


class TorchRuntime:
    """Runs the split graph with PyTorch."""

    name = "torch"

    def __init__(self, split: Split, device: str) -> None:
        self.device = device
        if device == "cpu":
            self._prefix, self._suffix = split.prefix, split.suffix
        else:  # a copy: the weights are those of the reference, which stays on the CPU
            self._prefix, self._suffix = (copy.deepcopy(part).to(device) for part in (split.prefix, split.suffix))

    @torch.inference_mode()
    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(self._prefix(*(torch.from_numpy(x).to(self.device) for x in inputs)))

    @torch.inference_mode()
    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        placed = (torch.from_numpy(value).to(self.device) for value in (rows, *masks))
        rows_placed = next(placed)
        return tuple(to_array(out) for out in self._suffix(rows_placed, *frontier, *placed))


class EagerRuntime:
    """Runs the module itself, with masks in the place of its dropout: the reference."""

    name = "eager"

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = device
        self._network = network
        self._network.module.to(device)
        self._lock = threading.Lock()

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(torch.from_numpy(x).to(self.device) for x in inputs)

    @torch.inference_mode()
    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        taken = torch.from_numpy(rows).to(self.device)
        with self._lock:
            inputs = tuple(x.index_select(0, taken) for x in frontier)
            outputs = self._network.run(inputs, [torch.from_numpy(mask).to(self.device) for mask in masks])
        return tuple(to_array(out) for out in outputs)
