"""ONNX Runtime on the CPU: the embedded default."""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, fx

from service.engine.program import EXAMPLE_PAIRS, EXAMPLE_ROWS, Split
from service.engine.quiet import quiet
from service.engine.runtimes import Array, Frontier

# Where the values of a suffix take no more memory than this, in bytes, it is done before a second thread has woken up:
# 800 pairs of mnist-cnn take 0.067 ms on one thread, and 0.093 to 0.128 on two. A session for that is worth its memory
# where it serves more than a handful of pairs.
_FEW_BYTES = 4 * 2**20
_FEWEST_PAIRS = 64


class OnnxRuntime:
    """Runs prefix and suffix as two ONNX Runtime sessions."""

    name = "onnx"
    device = "cpu"

    def __init__(self, split: Split, inputs: tuple[Tensor, ...], masks: tuple[Tensor, ...], pair_masks: list[bool]):
        """Export and load both halves.

        Args:
            split: the program.
            inputs: example inputs, `[EXAMPLE_ROWS, ...]` each.
            masks: example masks, `[EXAMPLE_PAIRS, ...]` each where `pair_masks` says so.
            pair_masks: for each mask, whether its first dimension is the pair.
        """
        rows, pairs = torch.export.Dim("rows"), torch.export.Dim("pairs")
        frontier = tuple(split.prefix(*inputs))
        self._prefix = OnnxPrefix(split, inputs)
        shapes = [{0: pairs}, *({0: rows} if value.per_row else None for value in split.frontier)]
        shapes += [{0: pairs} if per_pair else None for per_pair in pair_masks]
        taken = torch.arange(EXAMPLE_PAIRS) % EXAMPLE_ROWS
        exported = _export(split.suffix, (taken, *frontier, *masks), shapes)
        self._suffix = _Session(exported)
        self._few_pairs = _FEW_BYTES // max(1, split.suffix_bytes)
        self._suffix_of_few = _Session(exported, threads=1) if self._few_pairs >= _FEWEST_PAIRS else self._suffix

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        session = self._suffix_of_few if len(rows) <= self._few_pairs else self._suffix
        return session.run((rows, *frontier, *masks))


class OnnxPrefix:
    """Runs a prefix as an ONNX Runtime session, or hands the inputs on where there is nothing to compute."""

    def __init__(self, split: Split, inputs: tuple[Tensor, ...]) -> None:
        self._passed_on = [value.input for value in split.frontier if value.input is not None]
        self._session = None
        if split.has_prefix:
            exported = _export(split.prefix, inputs, [{0: torch.export.Dim("rows")}] * len(inputs))
            self._session = _Session(exported)

    def run(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._session is None:
            return tuple(inputs[index] for index in self._passed_on)
        return self._session.run(inputs)


@dataclass(frozen=True)
class _Exported:
    """A graph as ONNX, and the names of its inputs in order."""

    model: bytes
    inputs: tuple[str, ...]


def _export(
    graph: fx.GraphModule, examples: tuple[Tensor, ...], shapes: list[dict[int, torch.export.Dim] | None]
) -> _Exported:
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    with quiet():
        program = torch.onnx.export(
            graph, examples, dynamo=True, dynamic_shapes=tuple(shapes), input_names=names, verbose=False
        )
    assert program is not None
    return _Exported(program.model_proto.SerializeToString(), tuple(names))


class _Session:
    """An exported graph, loaded."""

    def __init__(self, exported: _Exported, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # A thread that spins after a run keeps a core from whoever has the next work: the other session, the drawing
        # of masks, the event loop. Measured on two cores, 8 rows and 100 passes of mnist-cnn: 7.4 ms where threads
        # spin on, 3.7 where they never do, 2.9 where they stop with the run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(exported.model, options, providers=["CPUExecutionProvider"])
        # The exporter drops an input that nothing reads.
        wanted = {value.name for value in self._session.get_inputs()}
        self._inputs = [(index, name) for index, name in enumerate(exported.inputs) if name in wanted]

    def run(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self._session.run(None, {name: values[index] for index, name in self._inputs}))
