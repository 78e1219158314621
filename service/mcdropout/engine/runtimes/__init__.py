"""Runtimes: what runs a program. Each has the same two calls, over NumPy arrays at its borders.

`onnx` runs any program on the CPU; `sparse` runs chains of masked linear layers there, faster; `torch` runs any program
on the CPU or CUDA, and holds the eager loop against which all are checked.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.masks import Undrawn


class Runtime(Protocol):
    """Runs a program split into prefix and suffix. Both calls may be made from several threads at once.

    Attributes:
        name, device: what it is, and where it computes.
    """

    name: str
    device: str

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        """What no mask touches, once a row. `inputs` are `[rows, ...]` each."""

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        """The outputs, `[pairs, ...]` each, of the pairs of row `rows[i]` and the `i`-th of each mask."""


@runtime_checkable
class DrawingRuntime(Runtime, Protocol):
    """Draws masks itself while it runs, which is faster than to be given them."""

    def suffix_drawing(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: Undrawn) -> tuple[Array, ...]:
        """What `suffix` returns under these masks, to the bit."""
