"""ONNX graphs as the cut sees them: each name is a value, and each node an operation."""

from collections.abc import Mapping
from functools import cached_property

from onnx import TensorProto

from mcdropout.engine.cutting.graph import Operation
from mcdropout.engine.cutting.layout import Layout
from mcdropout.engine.onnx.dataflow import Dataflow, is_op, sources
from mcdropout.engine.onnx.measuring import Value

# What arrays hold, so that it can be handed from a prefix to a suffix.
_CROSSING_TYPES = frozenset(
    TensorProto.DataType.Value(name)
    for name in (
        *("FLOAT", "DOUBLE", "FLOAT16", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)


class MaskedGraph:
    """A `CutGraph` over a dataflow `f(*inputs, *masks)`.

    Attributes:
        flow: the graph.
        values: what is known of its values.
    """

    counts_sizes = True

    def __init__(self, flow: Dataflow, inputs: int, values: Mapping[str, Value]) -> None:
        """`inputs` is how many of its inputs are the network's; the others are masks."""
        self.flow, self.values = flow, values
        names = tuple(value.name for value in flow.inputs)
        self.inputs, self.masks = names[:inputs], names[inputs:]
        self.outputs = flow.outputs

    @cached_property
    def operations(self) -> tuple[Operation[str], ...]:
        """The nodes. Of those that look at sizes, some look at one that does not follow from the number of rows."""
        return tuple(
            Operation(
                tuple(sources(node)),
                tuple(name for name in node.output if name),
                is_op(node, "Shape", "Size")
                and node.input[0] in self.values
                and self.values[node.input[0]].layout.known,
            )
            for node in self.flow.nodes
        )

    def is_array(self, value: str) -> bool:
        """Whether anything is known of a value, and it is of a type that arrays have."""
        return value in self.values and self.values[value].type in _CROSSING_TYPES

    def layout(self, value: str) -> Layout:
        """Where a value has its rows."""
        return self.values[value].layout

    def row_bytes(self, value: str) -> int:
        """The memory that one row of a value takes, in bytes; 0 where it has none, or where nothing is known."""
        return self.values[value].row_bytes if value in self.values else 0
