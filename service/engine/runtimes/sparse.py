"""Sparse: the native CPU runtime for chains of masked linear layers, which skips multiplications by zero.

Behind a ReLU and dropout with p = 0.5, three quarters or more of a layer's inputs are zero. A network (or what is left
of it behind its prefix) that is a chain of linear layers, ReLUs and dropout runs through `native.c`, which reads only
the weights of the others. A prefix runs on ONNX Runtime, as it does in `onnx.py`. Which
suffixes are chains is found in `graphs/chain.py`.
"""

import itertools

import numpy as np
import numpy.typing as npt

from service.engine import native
from service.engine.chain import Chain
from service.engine.program import Graphs
from service.engine.runtimes import Array, Frontier
from service.engine.runtimes.onnx import OnnxPrefix
from service.engine.runtimes.sessions import SessionOptions
from service.engine.threads import pool, thread_count

# With fewer pairs than this, a second thread reads the weights again for too few of them.
_PAIRS_A_THREAD = 16


def requirement() -> str:
    """What a network or an installation lacks for which `recognise` finds nothing."""
    if not native.available:
        return "its C extension was not built, which takes a C compiler at the time the package is installed"
    return "it takes float32 linear layers, one after another, with ReLU and element-wise dropout between them"


class SparseRuntime:
    """Runs the prefix on ONNX Runtime and a suffix that is a `Chain` natively."""

    name = "sparse"
    device = "cpu"

    def __init__(self, graphs: Graphs, chain: Chain, options: SessionOptions | None = None) -> None:
        """Pack the weights, and load the prefix.

        Args:
            graphs: the program.
            chain: what its suffix is.
            options: how to run the prefix.
        """
        self.graphs, self.chain = graphs, chain
        self._input = chain.input
        self._prefix = None
        if chain.input is None:
            self._prefix = OnnxPrefix(graphs.prefix, graphs.outline, options or SessionOptions())
        self._masks = [layer.mask for layer in chain.layers]
        self._outputs = len(chain.layers[-1].weight)
        self._chain = native.MaskedChain(
            [native.Linear.pack(layer.weight, layer.bias, relu=layer.relu) for layer in chain.layers]
        )

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._prefix is None:
            assert self._input is not None
            return (inputs[self._input],)
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        x = np.ascontiguousarray(frontier[0], np.float32).reshape(len(frontier[0]), -1)
        rows = np.ascontiguousarray(rows, np.int64)
        used = [None if index is None else np.ascontiguousarray(masks[index], np.float32) for index in self._masks]
        out = np.empty((len(rows), self._outputs), np.float32)
        threads = max(1, min(thread_count(), len(rows) // _PAIRS_A_THREAD))
        bounds = [len(rows) * part // threads for part in range(threads + 1)]
        first, *others = itertools.pairwise(bounds)
        waiting = [pool().submit(self._chain.run, x, rows, used, out, *part) for part in others]
        self._chain.run(x, rows, used, out, *first)
        for future in waiting:
            future.result()
        return (out,)
