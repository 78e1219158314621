"""Suffixes on ONNX Runtime: how a graph runs many pairs fastest, measured rather than known.

A session of several threads shares out the work of each operation. That pays where operations are large; in a graph of
many small ones, threads wait for one another longer than they compute: 400 pairs of a small transformer took 6.4 ms so,
3.0 on one thread, and 1.8 where each of two threads ran half of the pairs.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.program import Graph
from mcdropout.engine.runtimes.sessions import Session, SessionOptions
from mcdropout.engine.threads import at_once, thread_count

Way = Literal["shared", "single", "parts"]
"""Each operation shared out among the threads; all on one thread; or each thread a part of the pairs."""

_SIZES = (1, 16, 64, 256)  # pairs that are measured
_BORDERS = (4, 32, 128)  # between what is run as one of them or as the next
_TRIES, _FEWEST_TRIES, _SECONDS_OF_TRIES = 5, 2, 0.02
_MOST_SECONDS = 0.02  # of one run; beyond, operations are large, and a second session would take much memory
_MOST_BYTES = 2**26  # of the pairs of one run
_WORTHWHILE = 0.9  # of the time on one thread, which leaves the others to whoever has work for them


class OnnxSuffix:
    """Runs a suffix. Thread-safe once it is measured."""

    def __init__(self, graph: Graph, options: SessionOptions) -> None:
        self._graph, self._options = graph, options
        self._shared = Session(graph, options)
        self._single = self._shared
        self._ways: list[Way] = ["shared" for _ in _SIZES]
        self._per_pair: list[bool] = []  # of what it is given, whether that has an entry for each pair

    def run(self, rows: npt.NDArray[np.int64], frontier: Frontier, masks: Sequence[Array]) -> tuple[Array, ...]:
        """The outputs, `[pairs, ...]` each; arguments as for `Runtime.suffix`."""
        return self._run(self._ways[bisect_left(_BORDERS, len(rows))], (rows, *frontier, *masks))

    def trim(self) -> None:
        """As `Session.trim`."""
        self._shared.trim()
        self._single.trim()

    def measure(self, frontier: Frontier, rows: int, draw: Callable[[int], Sequence[Array]], pair_bytes: int) -> None:
        """Find the way that takes the least time, for some numbers of pairs; only what answers the same to the bit.

        Args:
            frontier: of some rows.
            rows: how many.
            draw: gives the masks of so many pairs.
            pair_bytes: the memory that a pair takes.
        """
        if thread_count() == 1 or self._options.provider != "cpu":
            return
        most = max(1, _MOST_BYTES // max(1, pair_bytes))
        own = (a.shape != b.shape for a, b in zip(draw(1), draw(2), strict=True))
        self._per_pair = [True, *[False] * len(frontier), *own]
        for index, size in enumerate(_SIZES):
            pairs = min(size, most)
            values = (np.arange(pairs, dtype=np.int64) % rows, *frontier, *draw(pairs))
            if _seconds(partial(self._shared.run, values)) > _MOST_SECONDS:
                break
            if self._single is self._shared:
                self._single = Session(self._graph, self._options, one_thread=True)
            self._ways[index] = self._fastest(values)
        if set(self._ways) == {"shared"}:
            self._single = self._shared

    def _fastest(self, values: tuple[Array, ...]) -> Way:
        wanted = self._shared.run(values)
        ways: list[Way] = ["shared", "single", "parts"]
        same = [way for way in ways if _same(self._run(way, values), wanted)]
        least = dict.fromkeys(same, np.inf)
        for number in range(_TRIES):
            taken = {way: _seconds(partial(self._run, way, values)) for way in same}
            least = {way: min(least[way], taken[way]) for way in same}
            if number + 1 >= _FEWEST_TRIES and (number + 1) * sum(taken.values()) > _SECONDS_OF_TRIES:
                break
        best = min(least, key=lambda way: least[way])
        frugal: Way = "single" if "single" in least else "shared"
        return best if least[best] <= _WORTHWHILE * least[frugal] else frugal

    def _run(self, way: Way, values: tuple[Array, ...]) -> tuple[Array, ...]:
        if way == "parts":
            return self._in_parts(values)
        return (self._single if way == "single" else self._shared).run(values)

    def _in_parts(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        found: dict[int, tuple[Array, ...]] = {}

        def run(begin: int, end: int) -> None:
            parts = zip(values, self._per_pair, strict=True)
            found[begin] = self._single.run(tuple(value[begin:end] if own else value for value, own in parts))

        at_once(thread_count(), len(values[0]), run)
        return tuple(np.concatenate(parts) for parts in zip(*(found[begin] for begin in sorted(found)), strict=True))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _same(some: tuple[Array, ...], others: tuple[Array, ...]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(some, others, strict=True))
