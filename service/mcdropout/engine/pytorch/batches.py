"""Batches: how many pairs a network is called with at once, measured rather than known.

All pairs of a step in one call are what a tiny network wants, as `x.repeat` gives them; where activations outgrow the
caches, a pass at a time, as in a plain loop, takes half as long. A network that looks at how many rows it is given may
answer otherwise from some number on; so many it is not given.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.verify import close, dropping_often

_SIZES = (8, 32, 128, 512)
_MOST_SECONDS = 0.4  # of all tries of one size, for a larger one to be tried
_TRIES = 5


class Batches:
    """How pairs are cut into calls.

    Attributes:
        size: how many pairs one call takes at most; None for all there are.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self._per_row: list[bool] = []

    def cut(self, rows: Any, masks: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """The pairs of each call: the rows that they are of, `[pairs]`, and their masks; arrays or tensors."""
        count = len(rows)
        if self.size is None or count <= self.size:
            yield rows, masks
            return
        for start in range(0, count, self.size):
            part = slice(start, start + self.size)
            own = [mask[part] if per_row else mask for mask, per_row in zip(masks, self._per_row, strict=True)]
            yield rows[part], own

    def measure(self, runtime: Runtime, source: MaskSource, inputs: tuple[Array, ...], tolerance: float) -> float:
        """Find the size that takes the least time a pair, and how many seconds that is; about a second at most.

        Args:
            runtime: what uses these batches.
            source: draws its masks.
            inputs: `[rows, ...]` each.
            tolerance: how far the answer to a pair may be from that beside fewer.
        """
        self._per_row = [site.scope == "row" for site in source.sites]
        frontier, best, least = runtime.prefix(inputs), _SIZES[0], np.inf
        often = dropping_often(source)
        few: tuple[Array, ...] = ()
        for size in _SIZES:
            self.size = size
            rows = np.arange(size, dtype=np.int64) % len(inputs[0])
            masks = often.draw([0] * size, range(size), 0, 1)
            tries: list[float] = []
            try:
                while len(tries) < 2 or (len(tries) < _TRIES and sum(tries) <= _MOST_SECONDS):
                    seconds, found = _timed(runtime, frontier, rows, masks)
                    tries.append(seconds)
            except Exception:  # whatever the network raises of so many
                if not few:
                    raise
                break
            few = few or found
            if not close("", tuple(a[: len(b)] for a, b in zip(found, few, strict=True)), few, tolerance).passed:
                break
            if min(tries) / size < least:
                best, least = size, min(tries) / size
            if sum(tries) > _MOST_SECONDS:  # a larger one takes too long to be tried, and to wait for
                break
        self.size = best
        return least


def _timed(
    runtime: Runtime, frontier: tuple[object, ...], rows: npt.NDArray[np.int64], masks: Sequence[Array]
) -> tuple[float, tuple[Array, ...]]:
    start = time.perf_counter()
    found = runtime.suffix(frontier, rows, list(masks))
    return time.perf_counter() - start, found
