"""Files: graphs as they lie on disk, with their large tensors beside them, to be mapped into memory."""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mcdropout.engine.onnx.chain import recognise
from mcdropout.engine.program import Graph, Graphs, Outline
from mcdropout.engine.sites import Site

PREFIX, SUFFIX = "prefix.onnx", "suffix.onnx"

_OUTSIDE_FROM = 1024  # bytes; what shapes are inferred from is smaller, and stays within the graph
_ALIGNMENT = 4096  # bytes: whole pages can be mapped


def write_graph(
    model: onnx.ModelProto, path: Path, inputs: tuple[str, ...] | None = None, outside: Collection[str] = ()
) -> Graph:
    """Write a graph to `path`, and its large tensors to `path.data`. The model keeps only references to them.

    Args:
        model: with all tensors in memory.
        path: ends in ".onnx".
        inputs: the names of its inputs, in the order in which values will be given; as the graph has them if None.
        outside: initializers to write to the other file whatever their size.
    """
    _strip(model)
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as out:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.STRING:
                continue
            values = np.ascontiguousarray(numpy_helper.to_array(tensor))
            if values.nbytes < _OUTSIDE_FROM and tensor.name not in outside:
                continue
            out.write(b"\0" * (-out.tell() % _ALIGNMENT))
            place = {"location": data.name, "offset": out.tell(), "length": values.nbytes}
            out.write(values.tobytes())
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
    if data.stat().st_size == 0:
        data.unlink()
    path.write_bytes(model.SerializeToString())
    return Graph(path, inputs if inputs is not None else tuple(value.name for value in model.graph.input))


def tensor_offsets(path: Path) -> dict[str, int]:
    """Where the tensors of a graph at `path` begin in the file beside it, in bytes, by name."""
    model = onnx.load(path, load_external_data=False)
    return {
        tensor.name: int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    }


def _strip(model: onnx.ModelProto) -> None:
    """Leave out where an exporter found what: it names the paths of the machine that it ran on."""
    parts: list[Any] = [model, model.graph, *model.functions]
    parts += [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]
    parts += [*model.graph.initializer, *(node for function in model.functions for node in function.node)]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@dataclass(frozen=True)
class Halves:
    """A program's two graphs in memory.

    Attributes:
        prefix, suffix: as `Graphs` has them, with all tensors in memory.
        prefix_inputs, suffix_inputs: the names of their inputs, in order; a graph may lack some.
        outline: what crosses, and what it costs.
    """

    prefix: onnx.ModelProto | None
    suffix: onnx.ModelProto
    prefix_inputs: tuple[str, ...]
    suffix_inputs: tuple[str, ...]
    outline: Outline

    def write(self, sites: Sequence[Site]) -> Graphs:
        """Write both to a folder that lives as long as what is returned.

        Args:
            sites: what the masks are of.
        """
        chain = recognise(self.suffix, self.prefix, self.outline, sites)
        folder = tempfile.TemporaryDirectory(prefix="mcdropout-")
        path = Path(folder.name)
        prefix = None if self.prefix is None else write_graph(self.prefix, path / PREFIX, self.prefix_inputs)
        suffix = write_graph(self.suffix, path / SUFFIX, self.suffix_inputs, chain.names if chain else ())
        return Graphs(prefix, suffix, self.outline, chain, folder)
