"""What every runtime does: run a program's two halves, and pick rows of what passes between them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.masks import Masks, Undrawn
from mcdropout.engine.sites import Site

SuffixDrawing = Callable[[Frontier, npt.NDArray[np.int64], Undrawn], tuple[Array, ...]]


class Runtime(Protocol):
    """Runs a program that is split into prefix and suffix, with NumPy arrays at its borders. Thread-safe.

    It may have `suffix_drawing` besides, which draws the masks while it runs, where that is faster than to be given
    them: `suffix_drawing(frontier, rows, undrawn)` returns, to the bit, what `suffix` does under these masks. Where it
    has to know the shapes of masks, `at(sites)` returns what runs the same for inputs of other sizes. Where it keeps
    memory from run to run, `trim()` has the next runs give back what is kept. Where it may run pairs in several ways,
    `measure(inputs, draw)` has it find the fastest. Where rows share masks, it may run several passes at once:
    `passes(frontier, rows, masks)` returns, but for rounding, what `suffix` does under the masks of each.

    Attributes:
        device: where it computes.
    """

    device: str

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        """What no mask touches, once a row. `inputs` are `[rows, ...]` each."""

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        """The outputs, `[pairs, ...]` each, of the pairs of row `rows[i]` and the `i`-th of each mask."""

    def take(self, value: Any, rows: npt.NDArray[np.int64]) -> Any:
        """Some rows of a frontier's value `[rows, ...]`, in the form that the runtime keeps it in."""

    def join(self, parts: Sequence[Any]) -> Any:
        """Values `[rows, ...]` of several frontiers, one behind another, in the form that the runtime keeps them in."""


def trim(runtime: Runtime) -> None:
    """Have a runtime's next runs give back the memory that it keeps from run to run, if it keeps any."""
    if (give_back := getattr(runtime, "trim", None)) is not None:
        give_back()


def measure(runtime: Runtime, inputs: tuple[Array, ...], draw: Callable[[int], Masks]) -> None:
    """Have a runtime find out how it runs pairs fastest, if there are several ways; nothing else changes.

    Args:
        runtime: which.
        inputs: some rows, `[rows, ...]` each.
        draw: gives the masks of so many pairs.
    """
    if (find_out := getattr(runtime, "measure", None)) is not None:
        find_out(inputs, draw)


def run_passes(
    runtime: Runtime, frontier: Frontier, rows: npt.NDArray[np.int64], masks: Sequence[Masks]
) -> list[tuple[Array, ...]]:
    """What a runtime's `suffix` gives under the masks of each of several passes: at once, where it can."""
    if (at_once := getattr(runtime, "passes", None)) is not None:
        found: list[tuple[Array, ...]] = at_once(frontier, rows, masks)
        return found
    return [runtime.suffix(frontier, rows, each) for each in masks]


RuntimeT = TypeVar("RuntimeT", bound=Runtime)


def drawing_of(runtime: Runtime) -> SuffixDrawing | None:
    """A runtime's `suffix_drawing`; None where it has none."""
    found: SuffixDrawing | None = getattr(runtime, "suffix_drawing", None)
    return found


def runtime_at(runtime: RuntimeT, sites: Sequence[Site]) -> RuntimeT:
    """What runs the same for inputs of other sizes, at which its sites are as given."""
    at = getattr(runtime, "at", None)
    found: RuntimeT = runtime if at is None else at(sites)
    return found
