"""Binding: a graph's inputs and outputs as the engine hands them over: `[rows, ...]`, with any number of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.inputs import Inputs, InputSpec, as_examples, as_tuple, check_finite, may_hold, row_axes
from mcdropout.engine.onnx.dataflow import Dataflow, Names, value_info
from mcdropout.engine.reading import Entry
from mcdropout.engine.sizes import Dimension, Named, Sizing, sizing_of
from mcdropout.engine.subject import EXAMPLE_ROWS

_TYPES = {
    TensorProto.DataType.Value(name): np.dtype(name.lower() if name != "DOUBLE" else "float64")
    for name in ("FLOAT16", "DOUBLE", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
} | {TensorProto.FLOAT: np.dtype(np.float32)}


@dataclass(frozen=True)
class Bound:
    """A graph that takes and gives `[rows, ...]`.

    Attributes:
        flow: the graph.
        names: of its inputs in the file, in the order in which examples were given.
        axes: where each has its rows in the file.
        batch: how many rows the file says that it takes; None where it takes any number.
        outputs: the names in the file of those that count.
        file_outputs: the names of all in the file, in order.
        output_row_axis: where they have their rows in the file.
        specs: what it takes.
        arrays: example inputs, `[EXAMPLE_ROWS, ...]` each, whose rows differ.
        sizing: which sizes of the inputs may differ from row to row; None where none may.
    """

    flow: Dataflow
    names: tuple[str, ...]
    axes: tuple[int, ...]
    batch: int | None
    outputs: tuple[str, ...]
    file_outputs: tuple[str, ...]
    output_row_axis: int
    specs: tuple[InputSpec, ...]
    arrays: tuple[Array, ...]
    sizing: Sizing | None = None


def bind(
    flow: Dataflow,
    declared: Mapping[str, ValueInfoProto],
    example_inputs: Inputs,
    row_axis: int | Sequence[int] | Mapping[str, int],
    outputs: Entry | Sequence[Entry] | None,
    output_row_axis: int,
    dimensions: Sequence[tuple[Dimension, ...]] | None = None,
    missing: bool = False,
) -> Bound:
    """Fit a graph to example inputs.

    Args:
        flow: the graph as the file has it.
        declared: what the file says of its inputs and outputs.
        example_inputs, row_axis, outputs, output_row_axis: as `understand` takes them.
        dimensions: of one row of each input, where some have names.
        missing: whether inputs may hold NaN.

    Raises:
        InvalidInputError: the examples, or the outputs, are not those of the graph.
        UnsupportedModelError: the graph takes or gives what the engine cannot hand over.
    """
    names = _names(flow, example_inputs)
    axes = row_axes(example_inputs, row_axis)
    given = []
    for name, value, axis in zip(names, as_tuple(example_inputs), axes, strict=True):
        given.append(_as_declared(value, declared[name], axis))
    arrays = as_examples(tuple(given), axes, EXAMPLE_ROWS)
    check_finite(dict(zip(names, given, strict=True)), arrays, missing)
    sizing = None if dimensions is None else sizing_of(arrays, dimensions)
    if sizing is not None:
        _check_any_size(sizing, declared, names, axes)
        arrays = sizing.examples_at(arrays, sizing.base)
    batches = {_batch(declared[name], axis) for name, axis in zip(names, axes, strict=True)} - {None}
    if len(batches) > 1:
        raise UnsupportedModelError(
            f"the inputs {list(names)} are declared with batches of {sorted(map(int, filter(None, batches)))} rows; "
            "one batch, or any number of rows, is accepted"
        )
    chosen = _outputs(flow, declared, outputs)
    specs = tuple(
        InputSpec(shape, x.dtype, name, axis, missing)
        for x, name, axis, shape in zip(
            arrays, names, axes, [x.shape[1:] for x in arrays] if sizing is None else sizing.shapes, strict=True
        )
    )
    bound = _rows_first(flow, declared, names, axes, specs, chosen, output_row_axis)
    batch = next(iter(batches), None)
    return Bound(bound, names, axes, batch, chosen, flow.outputs, output_row_axis, specs, arrays, sizing)


def _check_any_size(
    sizing: Sizing, declared: Mapping[str, ValueInfoProto], names: Sequence[str], axes: Sequence[int]
) -> None:
    """Raise where the graph itself fixes a size that is to be any."""
    for name, axis, shape in zip(names, axes, sizing.shapes, strict=True):
        dims = [dim for place, dim in enumerate(declared[name].type.tensor_type.shape.dim) if place != axis]
        for dim, dimension in zip(dims, shape, strict=False):
            if isinstance(dimension, Named) and dim.HasField("dim_value"):
                raise UnsupportedModelError(
                    f"the input {name!r} is declared with {dim.dim_value} for {dimension}; a graph exported with any "
                    "size there is accepted (dynamic_shapes, or dynamic_axes)"
                )


def _names(flow: Dataflow, given: Inputs) -> tuple[str, ...]:
    """The inputs that examples are of. An input that has a value of its own in the file may be left out."""
    known = [value.name for value in flow.inputs]
    needed = [name for name in known if name not in flow.weights]
    if isinstance(given, Mapping):
        missing = [name for name in needed if name not in given]
        if missing or not set(given) <= set(known):
            raise InvalidInputError(f"example inputs are given for {list(given)}; the graph takes {known}")
        return tuple(given)
    count = len(as_tuple(given))
    if count not in (len(needed), len(known)):
        raise InvalidInputError(f"{count} example inputs are given; the graph takes {len(needed)}: {needed}")
    return tuple(needed if count == len(needed) else known)


def _as_declared(value: Any, declared: ValueInfoProto, axis: int) -> Array:
    """An example in the type and of the shape that the graph declares."""
    name, tensor = declared.name, declared.type.tensor_type
    wanted = _TYPES.get(tensor.elem_type)
    if wanted is None:
        known = {number: text for text, number in TensorProto.DataType.items()}
        kind = known.get(tensor.elem_type, "of no known type")
        kind = kind if declared.type.HasField("tensor_type") else "no tensor"
        raise UnsupportedModelError(f"the input {name!r} is {kind}; tensors of {_listed()} are accepted")
    x: Array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    sizes = [(dim.dim_value if dim.HasField("dim_value") else None) for dim in tensor.shape.dim]
    fits = not tensor.HasField("shape") or (
        len(sizes) == x.ndim
        and all(size in (None, have) for at, (size, have) in enumerate(zip(sizes, x.shape, strict=True)) if at != axis)
    )
    if not fits:
        shape = ["rows" if at == axis else "any" if size is None else size for at, size in enumerate(sizes)]
        raise InvalidInputError(
            f"the example for the input {name!r} has the shape {list(x.shape)}; [{', '.join(map(str, shape))}] is "
            "accepted" + ("" if len(sizes) > axis else f", which has no dimension {axis} for the rows")
        )
    if x.dtype.kind not in "fiub" or not (may_hold(wanted, x.dtype) or wanted.kind == "f"):
        raise InvalidInputError(f"the example for the input {name!r} is of {x.dtype}; {wanted} is accepted")
    taken = x.astype(wanted)
    if wanted.kind in "iub" and (taken != x).any():
        raise InvalidInputError(
            f"the example for the input {name!r} holds {x[taken != x][0]}; numbers of {wanted} are accepted"
        )
    return taken


def _listed() -> str:
    return ", ".join(str(dtype) for dtype in dict.fromkeys(_TYPES.values()))


def _batch(declared: ValueInfoProto, axis: int) -> int | None:
    """The number of rows that an input is declared with."""
    dims = declared.type.tensor_type.shape.dim
    return dims[axis].dim_value if axis < len(dims) and dims[axis].HasField("dim_value") else None


def _outputs(
    flow: Dataflow, declared: Mapping[str, ValueInfoProto], wanted: Entry | Sequence[Entry] | None
) -> tuple[str, ...]:
    """The names of the outputs that count."""
    entries = list(flow.outputs) if wanted is None else [wanted] if isinstance(wanted, str | int) else list(wanted)
    found: list[str] = []
    for entry in entries:
        if isinstance(entry, int) and -len(flow.outputs) <= entry < len(flow.outputs):
            found.append(flow.outputs[entry])
        elif entry in flow.outputs:
            found.append(str(entry))
        else:
            raise InvalidInputError(f"outputs names {entry!r}; the graph's outputs are {list(flow.outputs)}")
    usable = [name for name in flow.outputs if _is_of_numbers(declared[name])]
    for name in found:
        if name not in usable:
            accepted = f"outputs (in model.yaml, output) that names one that is, of {usable}, is accepted"
            if any(node.op_type == "ZipMap" and name in node.output for node in flow.nodes):
                accepted = "a ZipMap makes it of one that is: a file exported without, zipmap=False, is accepted"
            elif not usable:
                accepted = "a graph with an output that is one is accepted"
            raise UnsupportedModelError(f"the output {name!r} is no tensor of numbers; {accepted}")
    return tuple(found)


def _is_of_numbers(declared: ValueInfoProto) -> bool:
    kind = declared.type
    return kind.WhichOneof("value") in (None, "tensor_type") and kind.tensor_type.elem_type != TensorProto.STRING


def sizes_of(spec: InputSpec) -> list[int | str]:
    """The sizes of an input as a graph declares them, with names for those that differ."""
    return [size.name if isinstance(size, Named) else size for size in spec.shape]


def _rows_first(
    flow: Dataflow,
    declared: Mapping[str, ValueInfoProto],
    names: Sequence[str],
    axes: Sequence[int],
    specs: Sequence[InputSpec],
    outputs: Sequence[str],
    output_row_axis: int,
) -> Dataflow:
    new, nodes = Names(flow.names), []
    inputs: list[ValueInfoProto] = []
    for name, axis, spec in zip(names, axes, specs, strict=True):
        fed = new.fresh(f"{name}_rows_first") if axis else name
        inputs.append(value_info(fed, declared[name].type.tensor_type.elem_type, ["rows", *sizes_of(spec)]))
        if axis:
            order = range(1, 1 + len(spec.shape))
            nodes.append(helper.make_node("Transpose", [fed], [name], perm=[*order[:axis], 0, *order[axis:]]))
    nodes += flow.nodes
    made = {name for node in nodes for name in node.output}
    given_out: list[str] = []
    for name in outputs:
        kind = declared[name].type.tensor_type.elem_type
        steps: list[tuple[str, dict[str, Any]]] = []
        if kind == TensorProto.BFLOAT16:  # NumPy has none
            steps.append(("Cast", {"to": TensorProto.FLOAT}))
        if output_row_axis:
            rank = len(declared[name].type.tensor_type.shape.dim)
            if 0 < rank <= output_row_axis:
                raise UnsupportedModelError(
                    f"output_row_axis is {output_row_axis}, and the output {name!r} has {rank} dimensions; 0 to "
                    f"{rank - 1} is accepted"
                )
            others = [axis for axis in range(max(rank, output_row_axis + 1)) if axis != output_row_axis]
            steps.append(("Transpose", {"perm": [output_row_axis, *others]}))
        if name not in made or name in given_out:
            steps.append(("Identity", {}))
        for operator, attributes in steps:
            given_out_name = new.fresh(f"{name}_{operator.lower()}")
            nodes.append(helper.make_node(operator, [name], [given_out_name], **attributes))
            name = given_out_name
        given_out.append(name)
    weights = {name: value for name, value in flow.weights.items() if name not in names}
    return replace(flow, nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(given_out), weights=weights)
