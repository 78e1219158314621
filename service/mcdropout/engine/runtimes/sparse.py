"""Sparse: the native CPU runtime for chains of masked linear layers, which skips multiplications by zero.

Behind a ReLU and dropout with p = 0.5, three quarters or more of a layer's inputs are zero. A network (or what is left
of it behind its prefix) that is a chain of linear layers, ReLUs and dropout runs through `chains.c`, which reads only
the weights of the others. A prefix runs on ONNX Runtime, as it does in `onnx.py`. Which suffixes are chains is found
when a program is written as ONNX.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.chain import Chain
from mcdropout.engine.masks import Undrawn
from mcdropout.engine.native import library
from mcdropout.engine.native.chains import Linear, MaskedChain
from mcdropout.engine.program import Graphs
from mcdropout.engine.runtimes.forms import Form, Runnable
from mcdropout.engine.runtimes.onnx import OnnxPrefix
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.runtimes.table import Refusal, RuntimeKind, Target, register


class SparseRuntime:
    """Runs the prefix on ONNX Runtime and a suffix that is a `Chain` natively."""

    device = "cpu"

    def __init__(self, graphs: Graphs, chain: Chain, options: SessionOptions | None = None) -> None:
        """Pack the weights, and load the prefix.

        Args:
            graphs: the program.
            chain: what its suffix is.
            options: how to run the prefix.
        """
        self._input = chain.input
        self._prefix = None
        if chain.input is None:
            self._prefix = OnnxPrefix(graphs.prefix, graphs.outline, options or SessionOptions())
        self._masks = [layer.mask for layer in chain.layers]
        self._sites = np.array([-1 if layer.mask is None else layer.mask for layer in chain.layers], np.int64)
        self._outputs = len(chain.layers[-1].weight)
        self._chain = MaskedChain([Linear.pack(layer.weight, layer.bias, relu=layer.relu) for layer in chain.layers])

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._prefix is None:
            assert self._input is not None
            return (inputs[self._input],)
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        x, rows, out = self._arrays(frontier, rows)
        used = [None if index is None else np.ascontiguousarray(masks[index], np.float32) for index in self._masks]
        self._chain.run(x, rows, used, out)
        return (out,)

    def suffix_drawing(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: Undrawn) -> tuple[Array, ...]:
        if masks.table is None:
            return self.suffix(frontier, rows, masks.draw(overwrite=True))
        x, rows, out = self._arrays(frontier, rows)
        self._chain.run_drawn(x, rows, masks.table, self._sites, masks.passes, out)
        return (out,)

    def trim(self) -> None:
        if self._prefix is not None:
            self._prefix.trim()

    def take(self, value: Array, rows: npt.NDArray[np.int64]) -> Array:
        return value[rows]

    def join(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)

    def _arrays(self, frontier: Frontier, rows: npt.NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """What the chain takes, and what it writes to."""
        x = np.ascontiguousarray(frontier[0], np.float32).reshape(len(frontier[0]), -1)
        return x, np.ascontiguousarray(rows, np.int64), np.empty((len(rows), self._outputs), np.float32)


def _accepts(program: Runnable, target: Target) -> Refusal | None:
    if not library.available():
        return Refusal(
            "its C extension was not built, or is of another version; it takes a C compiler at the time the package is "
            "installed"
        )
    chain = program.graphs().chain
    if chain is None:
        return Refusal(
            "it takes float32 linear layers, one after another, with ReLU and element-wise dropout between them"
        )
    if target.by_name:
        return None
    if target.options.provider != "cpu":
        return Refusal(f"ONNX Runtime is to run programs on {target.options.provider}")
    return None if chain.worthwhile else Refusal("a dense product is expected to be as fast")


def _build(program: Runnable, target: Target) -> Runtime:
    graphs = program.graphs()
    assert graphs.chain is not None
    return SparseRuntime(graphs, graphs.chain, target.options)


register(RuntimeKind(name="sparse", rank=10, takes=Form.GRAPHS, build=_build, accepts=_accepts, cpu_only=True))
