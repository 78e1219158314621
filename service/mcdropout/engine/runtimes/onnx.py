"""Onnx: ONNX Runtime, the embedded default."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.masks import Masks
from mcdropout.engine.program import Graph, Graphs, Outline
from mcdropout.engine.runtimes.forms import Form, Runnable
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.runtimes.sessions import Session, SessionOptions
from mcdropout.engine.runtimes.suffix import OnnxSuffix
from mcdropout.engine.runtimes.table import RuntimeKind, Target, register


class OnnxRuntime:
    """Runs prefix and suffix as two sessions."""

    def __init__(self, graphs: Graphs, options: SessionOptions | None = None) -> None:
        """Load both halves."""
        options = options or SessionOptions()
        self.device: str = options.provider
        self._prefix = OnnxPrefix(graphs.prefix, graphs.outline, options)
        self._suffix = OnnxSuffix(graphs.suffix, options)
        self._pair_bytes = graphs.outline.suffix_bytes

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        return self._suffix.run(rows, frontier, masks)

    def measure(self, inputs: tuple[Array, ...], draw: Callable[[int], Masks]) -> None:
        self._suffix.measure(self._prefix.run(inputs), len(inputs[0]), draw, self._pair_bytes)

    def trim(self) -> None:
        self._prefix.trim()
        self._suffix.trim()

    def take(self, value: Array, rows: npt.NDArray[np.int64]) -> Array:
        return value[rows]

    def join(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)


class OnnxPrefix:
    """Runs a prefix as a session, or hands the inputs on where there is nothing to compute."""

    def __init__(self, graph: Graph | None, outline: Outline, options: SessionOptions) -> None:
        self._passed_on = [value.input for value in outline.frontier if value.input is not None]
        self._session = None if graph is None else Session(graph, options)

    def run(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._session is None:
            return tuple(inputs[index] for index in self._passed_on)
        return self._session.run(inputs)

    def trim(self) -> None:
        if self._session is not None:
            self._session.trim()


def _build(program: Runnable, target: Target) -> Runtime:
    return OnnxRuntime(program.graphs(), target.options)


register(RuntimeKind(name="onnx", rank=20, takes=Form.GRAPHS, build=_build, cpu_only=True))
