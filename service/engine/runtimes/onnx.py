"""ONNX Runtime: the embedded default."""

import math
import time

import numpy as np
import numpy.typing as npt

from service.engine.program import Graph, Graphs, Outline
from service.engine.runtimes import Array, Frontier
from service.engine.runtimes.sessions import Session, SessionOptions

# Where the values of a suffix take no more memory than this, in bytes, it is done before a second thread has woken up:
# 800 pairs of mnist-cnn take 0.067 ms on one thread, and 0.093 to 0.128 on two. A session for that is worth its memory
# where it serves more than a handful of pairs.
_FEW_BYTES = 4 * 2**20
_FEWEST_PAIRS = 64
# A prefix has a session more for few rows, where its file is small: those that take less than so many seconds.
_SMALL_GRAPH_BYTES = 8 * 2**20
_FEW_SECONDS = 0.002


class OnnxRuntime:
    """Runs prefix and suffix as two sessions.

    Attributes:
        graphs: what it runs.
    """

    name = "onnx"

    def __init__(self, graphs: Graphs, options: SessionOptions | None = None) -> None:
        """Load both halves."""
        options = options or SessionOptions()
        self.graphs = graphs
        self.device: str = options.provider
        self._prefix = OnnxPrefix(graphs.prefix, graphs.outline, options)
        self._suffix = self._suffix_of_few = Session(graphs.suffix, options)
        self._few_pairs = _FEW_BYTES // max(1, graphs.outline.suffix_bytes)
        if self._few_pairs >= _FEWEST_PAIRS and options.provider == "cpu":
            self._suffix_of_few = Session(graphs.suffix, options, one_thread=True)

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        session = self._suffix_of_few if len(rows) <= self._few_pairs else self._suffix
        return session.run((rows, *frontier, *masks))


class OnnxPrefix:
    """Runs a prefix as a session, or hands the inputs on where there is nothing to compute.

    Few rows of a small network are done sooner on one thread, in a server above all, whose other threads are busy: what
    a row takes there, at best, is measured as it goes.
    """

    def __init__(self, graph: Graph | None, outline: Outline, options: SessionOptions) -> None:
        self._passed_on = [value.input for value in outline.frontier if value.input is not None]
        self._session = None if graph is None else Session(graph, options)
        self._session_of_few: Session | None = None
        self._row_seconds = math.inf
        if graph is not None and options.provider == "cpu" and _file_bytes(graph) <= _SMALL_GRAPH_BYTES:
            self._session_of_few = Session(graph, options, one_thread=True)
            self._warm = False

    def run(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._session is None:
            return tuple(inputs[index] for index in self._passed_on)
        rows = len(inputs[0])
        measured = self._row_seconds < math.inf
        if self._session_of_few is None or (measured and rows * self._row_seconds > _FEW_SECONDS):
            return self._session.run(inputs)
        started = time.perf_counter()
        frontier = self._session_of_few.run(inputs)
        if self._warm:
            self._row_seconds = min(self._row_seconds, (time.perf_counter() - started) / max(1, rows))
        self._warm = True
        return frontier


def _file_bytes(graph: Graph) -> int:
    """The size of a graph's file, and of those beside it that hold its tensors."""
    return sum(file.stat().st_size for file in graph.path.parent.glob(f"{graph.path.name}*"))
