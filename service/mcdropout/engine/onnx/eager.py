"""Eager: a graph run as it is, neither optimised nor cut: the reference that programs are checked against."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.onnx.dataflow import Dataflow, to_model
from mcdropout.engine.onnx.measuring import message_of
from mcdropout.engine.onnx.write import write_graph
from mcdropout.engine.program import Graph
from mcdropout.engine.runtimes.sessions import Session, SessionOptions

PLAINEST = SessionOptions(optimization="none")


class GraphRuntime:
    """Runs `f(*inputs, *masks)` on the inputs of each pair."""

    device = "cpu"

    def __init__(self, flow: Dataflow) -> None:
        """Load the graph."""
        self._session = session_of(flow)

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return inputs

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        return self._session.run((*(x[rows] for x in frontier), *masks))

    def take(self, value: Array, rows: npt.NDArray[np.int64]) -> Array:
        return value[rows]

    def join(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)


def session_of(flow: Dataflow) -> Session:
    """A session that runs a graph without changing anything in it.

    Raises:
        UnsupportedModelError: ONNX Runtime does not load it.
    """
    with tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
        return session_of_file(write_graph(to_model(flow), Path(folder) / "graph.onnx"))


def session_of_file(graph: Graph) -> Session:
    """The same of a graph in a file."""
    try:
        return Session(graph, PLAINEST)
    except Exception as error:  # whatever ONNX Runtime raises
        raise UnsupportedModelError(f"ONNX Runtime does not load the graph: {message_of(error)}") from error
