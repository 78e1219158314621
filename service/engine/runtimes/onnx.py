"""ONNX Runtime on the CPU: the embedded default."""

import os

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, fx

from service.engine.program import EXAMPLE_PAIRS, EXAMPLE_ROWS, Split
from service.engine.quiet import quiet
from service.engine.runtimes import Array, Frontier


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
        self._suffix = _Session(split.suffix, (taken, *frontier, *masks), shapes)

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        return self._suffix.run((rows, *frontier, *masks))


class OnnxPrefix:
    """Runs a prefix as an ONNX Runtime session, or hands the inputs on where there is nothing to compute."""

    def __init__(self, split: Split, inputs: tuple[Tensor, ...]) -> None:
        self._passed_on = [value.input for value in split.frontier if value.input is not None]
        self._session = None
        if split.has_prefix:
            self._session = _Session(split.prefix, inputs, [{0: torch.export.Dim("rows")}] * len(inputs))

    def run(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._session is None:
            return tuple(inputs[index] for index in self._passed_on)
        return self._session.run(inputs)


class _Session:
    """A graph, exported to ONNX and loaded."""

    def __init__(
        self, graph: fx.GraphModule, examples: tuple[Tensor, ...], shapes: list[dict[int, torch.export.Dim] | None]
    ) -> None:
        names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        with quiet():
            program = torch.onnx.export(
                graph, examples, dynamo=True, dynamic_shapes=tuple(shapes), input_names=names, verbose=False
            )
        assert program is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        # A thread that spins after a run keeps a core from whoever has the next work: the other session, the drawing
        # of masks, the event loop. Measured on two cores, 8 rows and 100 passes of mnist-cnn: 7.4 ms where threads
        # spin on, 3.7 where they never do, 2.9 where they stop with the run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        # The exporter drops an input that nothing reads.
        wanted = {value.name for value in self._session.get_inputs()}
        self._inputs = [(index, name) for index, name in enumerate(names) if name in wanted]

    def run(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self._session.run(None, {name: values[index] for index, name in self._inputs}))
