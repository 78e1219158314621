"""Tensors: what runtimes on PyTorch share, and the one that runs a split graph."""

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.runtimes.forms import Modules


class TorchRuntime:
    """Runs prefix and suffix with PyTorch."""

    def __init__(self, modules: Modules, device: str) -> None:
        self.device = device
        self._prefix, self._suffix = modules.prefix, modules.suffix
        if device != "cpu":  # copies: the weights are those of the reference, which stays on the CPU
            self._prefix, self._suffix = (copy.deepcopy(part).to(device) for part in (self._prefix, self._suffix))

    @torch.inference_mode()
    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return tuple(self._prefix(*(torch.from_numpy(x).to(self.device) for x in inputs)))

    @torch.inference_mode()
    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        placed = (torch.from_numpy(value).to(self.device) for value in (rows, *masks))
        rows_placed = next(placed)
        return tuple(to_array(out) for out in self._suffix(rows_placed, *frontier, *placed))

    def take(self, value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
        return take_rows(value, rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))


def take_rows(value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Some rows of `value`, `[rows, ...]`, on its device."""
    return value[torch.from_numpy(rows).to(value.device)]


def joined(parts: Sequence[Sequence[Tensor]]) -> tuple[Array, ...]:
    """The outputs of some calls, one behind another."""
    if len(parts) == 1:
        return tuple(map(to_array, parts[0]))
    return tuple(to_array(torch.cat(outputs)) for outputs in zip(*parts, strict=True))


def to_array(x: Tensor) -> Array:
    """A tensor as an array; NumPy has no bfloat16."""
    return (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
