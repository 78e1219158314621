"""Measuring: what running a graph shows of its values: their types, their shapes, and where they have their rows.

Nothing is optimised, so that every value is there to be looked at. Each is seen with two rows and with three, and once
more with one row changed: the dimension that grows is the one with the rows, and the entries that change are a row's.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, numpy_helper

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.cutting.layout import ROWS, Layout, growing, is_interleaved, layout_between
from mcdropout.engine.errors import UnsupportedModelError, first_line
from mcdropout.engine.onnx.dataflow import DATA, Dataflow, is_op, key, levels, sizes_alone, sources, to_model
from mcdropout.engine.onnx.write import write_graph

_TYPES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "double": TensorProto.DOUBLE,
    "bfloat16": TensorProto.BFLOAT16,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    **{
        name.lower(): kind
        for name, kind in TensorProto.DataType.items()
        if name.endswith(("INT8", "INT16", "INT32", "INT64"))
    },
}
# Bytes of an entry, of types that do not have four.
_WIDTHS: dict[int, int] = {
    TensorProto.DOUBLE: 8,
    TensorProto.INT64: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.BOOL: 1,
}
# Operators whose result has a size that depends on what they are given.
_SIZED_BY_DATA = ("NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit", "If")
SIZE_INPUTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Tile": (1,),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Resize": (2, 3),
    "Upsample": (1,),
    "OneHot": (1,),
    "TopK": (1,),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "CenterCropPad": (1,),
    "AffineGrid": (1,),
}
"""Of other operators, the inputs that say a size."""


@dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
        type: its ONNX element type; 0 where it is no tensor, or of a type that arrays do not have.
        layout: where it has its rows; its shape is that with three.
        varying: the dimensions that follow sizes of the inputs which differ from row to row.
    """

    type: int
    layout: Layout
    varying: tuple[int, ...] = ()

    @property
    def row_sizes(self) -> tuple[int | str, ...]:
        """The sizes of one row, the rows aside, for a graph to declare; names for those that differ."""
        if self.layout.merged or not self.varying:
            return self.layout.row_shape
        axes = (axis for axis in range(len(self.layout.shape)) if axis != self.layout.axis)
        return tuple(f"size_{axis}" if axis in self.varying else self.layout.shape[axis] for axis in axes)

    @property
    def row_bytes(self) -> int:
        """The memory that one row takes, in bytes; 0 where it has no rows."""
        if self.layout.axis is None and self.layout.known:
            return 0
        return int(np.prod(self.layout.shape)) * _width(self.type) // ROWS[1]


def _width(kind: int) -> int:
    return _WIDTHS.get(kind, 4)


class Probe:
    """A graph that shows all its values."""

    def __init__(self, flow: Dataflow) -> None:
        """
        Raises:
            UnsupportedModelError: ONNX Runtime does not load it.
        """
        self.flow = flow
        named = [name for node in flow.nodes for name in node.output if name]
        self._session = _session(replace(flow, outputs=tuple(named), types=None))
        self.types = {
            value.name: _TYPES.get(value.type.removeprefix("tensor(").removesuffix(")"), 0)
            for value in self._session.get_outputs()
            if value.type.startswith("tensor(")
        }
        for value in flow.inputs:
            self.types[value.name] = value.type.tensor_type.elem_type
        for name, weight in flow.weights.items():
            self.types[name] = weight.data_type
        self._inputs = [value.name for value in flow.inputs]

    def run(self, arrays: Sequence[Array], names: Iterable[str] | None = None) -> dict[str, Any]:
        """The values `names`, or all tensors among them, as ONNX Runtime's values.

        Raises:
            UnsupportedModelError: it does not run.
        """
        wanted = [value.name for value in self._session.get_outputs() if value.name in self.types]
        if names is not None:
            asked = set(names)
            wanted = [name for name in wanted if name in asked]
        if not wanted:
            return {}
        fed = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x))
            for name, x in zip(self._inputs, arrays, strict=True)
        }
        try:
            found = self._session.run_with_ort_values(wanted, fed)
        except Exception as error:  # whatever ONNX Runtime raises
            shapes = [list(x.shape) for x in arrays]
            raise UnsupportedModelError(
                f"the graph does not run on inputs of shape {shapes}: {message_of(error)}; one that takes any number "
                "of rows is accepted: a batch of a fixed size must be exported as a dynamic axis (PyTorch: "
                "dynamic_shapes or dynamic_axes; tf2onnx: a signature with None as its first dimension)"
            ) from error
        return dict(zip(wanted, found, strict=True))

    def array(self, arrays: Sequence[Array], name: str) -> Array:
        """One value, or weight."""
        if name in self.flow.weights:
            return numpy_helper.to_array(self.flow.weights[name])
        found: Array = self.run(arrays, [name])[name].numpy()
        return found


def _session(flow: Dataflow) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        graph = write_graph(to_model(flow), Path(folder) / "graph.onnx")
        try:
            return onnxruntime.InferenceSession(graph.path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever ONNX Runtime raises
            raise UnsupportedModelError(
                f"ONNX Runtime {onnxruntime.__version__} does not load the graph: {message_of(error)}"
            ) from error


def message_of(error: Exception) -> str:
    """ONNX Runtime's message without its codes, and without the places in its own source."""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
    text = re.sub(
        r"^Non-zero status code returned while running (\w+) node. Name:'(.*?)' Status Message: ", r"\1 '\2': ", text
    )
    return re.sub(r"/\S+:\d+ .*?\) ", "", text, count=1)


def measure(probe: Probe, arrays: Sequence[Array]) -> dict[str, Value]:
    """What is known of each value of a graph that draws nothing.

    Args:
        probe: the graph.
        arrays: example inputs, `[3, ...]` each, whose rows differ.
    """
    flow = probe.flow
    few, more = ([with_rows(x, rows) for x in arrays] for rows in ROWS)
    other = [np.concatenate([x[:1], x[2:3], x[2:]]) for x in more]
    two, three = ({name: tuple(value.shape()) for name, value in probe.run(x).items()} for x in (few, more))
    changed = {name: tuple(value.shape()) for name, value in probe.run(other).items()}
    unsettled = _sized_by_data(flow)
    layouts: dict[str, Layout] = {}
    for name, shape in three.items():
        layout = layout_between(two[name], shape)
        layouts[name] = replace(layout, known=layout.known and name not in unsettled and changed[name] == shape)
    merged = [name for name, layout in layouts.items() if layout.merged]
    before, after = probe.run(more, merged), probe.run(other, merged)
    for name in merged:
        if probe.types[name]:
            layouts[name] = _told_apart(layouts[name], before[name].numpy(), after[name].numpy())
    layouts.update((given.name, Layout(x.shape, 0)) for given, x in zip(flow.inputs, more, strict=True))
    layouts.update((name, Layout(tuple(weight.dims))) for name, weight in flow.weights.items())
    return {name: Value(probe.types[name], layout) for name, layout in layouts.items()}


def with_varying(values: Mapping[str, Value], others: Mapping[str, Value]) -> dict[str, Value]:
    """What is known of values, with the dimensions that follow sizes, also from what they are at other sizes.

    Where a row is several entries of a dimension, and one of the others follows a size, a value is brought elsewhere by
    sizes that no graph can have written down: it cannot cross.
    """
    found: dict[str, Value] = {}
    for name, value in values.items():
        here, there = value.layout, others[name].layout if name in others else value.layout
        alike = len(here.shape) == len(there.shape) and (here.axis, here.times) == (there.axis, there.times)
        if not alike:
            found[name] = replace(value, layout=replace(here, known=False), varying=tuple(range(len(here.shape))))
            continue
        varying = tuple(sorted({*value.varying, *growing(here.shape, there.shape)}))
        known = here.known and there.known and not (here.merged and varying)
        found[name] = replace(value, layout=replace(here, known=known), varying=varying)
    return found


def _told_apart(layout: Layout, before: Array, after: Array) -> Layout:
    """Where the entries of a row lie along the rows' dimension: shown by those that change with the middle row."""
    assert layout.axis is not None
    differ = before != after
    if before.dtype.kind == "f":
        differ &= ~(np.isnan(before) & np.isnan(after))
    others = tuple(axis for axis in range(differ.ndim) if axis != layout.axis)
    interleaved = is_interleaved(np.flatnonzero(differ.any(others)), layout.times)
    return replace(layout, apart=interleaved is not None, interleaved=bool(interleaved))


def _sized_by_data(flow: Dataflow) -> set[str]:
    """Values whose sizes depend on what inputs hold."""
    level = levels(flow, sizes_alone(flow))
    found: set[str] = set()
    for node in flow.nodes:
        sizes = [node.input[at] for at in SIZE_INPUTS.get(node.op_type, ()) if at < len(node.input) and node.input[at]]
        if (
            found.intersection(sources(node))
            or (is_op(node, *_SIZED_BY_DATA) and level[key(node)] == DATA)
            or (is_op(node, *SIZE_INPUTS) and any(level.get(name) == DATA for name in sizes))
        ):
            found.update(name for name in node.output if name)
    return found
