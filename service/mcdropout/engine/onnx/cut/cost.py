"""Cost: how many floating-point operations run once a row, and how many once a pass.

As PyTorch's `FlopCounterMode` has it: two for each multiply-add of products, convolutions and recurrent layers.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from onnx import NodeProto

from mcdropout.engine.cutting.layout import ROWS
from mcdropout.engine.onnx.cut.split import Cut
from mcdropout.engine.onnx.dataflow import attribute
from mcdropout.engine.onnx.measuring import Value
from mcdropout.engine.program import Cost

_Shapes = list[tuple[int, ...]]


def cost_of(cut: Cut, values: Mapping[str, Value]) -> Cost:
    """The cost of a graph that is cut in two.

    Args:
        cut: the graph.
        values: what is known of its values, three rows of which were seen.
    """
    return Cost(_total(cut.before, values), _total(cut.after, values))


def _total(nodes: Iterable[NodeProto], values: Mapping[str, Value]) -> int:
    """The operations of nodes for one row."""
    total = 0
    for node in nodes:
        count = _COUNTS.get(node.op_type)
        names = [*node.input, next((name for name in node.output if name), "")]
        if count is not None and all(name in values for name in names if name):
            total += count(node, [values[name].layout.shape if name else () for name in names])
    return round(total / ROWS[-1])


def _matmul(_: NodeProto, shapes: _Shapes) -> int:
    return 2 * math.prod(shapes[-1]) * shapes[0][-1]


def _gemm(node: NodeProto, shapes: _Shapes) -> int:
    return 2 * math.prod(shapes[-1]) * shapes[0][0 if attribute(node, "transA", 0) else 1]


def _conv(_: NodeProto, shapes: _Shapes) -> int:
    return 2 * math.prod(shapes[-1]) * math.prod(shapes[1][1:])


def _conv_transpose(_: NodeProto, shapes: _Shapes) -> int:
    return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _recurrent(_: NodeProto, shapes: _Shapes) -> int:
    """Input `[steps, rows, features]`, weights `[directions, gates * hidden, features]` and of the hidden state."""
    steps, rows = shapes[0][:2]
    return 2 * steps * rows * (math.prod(shapes[1]) + math.prod(shapes[2]))


def _einsum(node: NodeProto, shapes: _Shapes) -> int:
    """Each index of a sum of products of two operands once; nothing of others."""
    terms = attribute(node, "equation").decode().replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or any("." in term for term in terms):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=False):
        sizes.update(zip(term, shape, strict=True))
    return 2 * math.prod(sizes.values())


_COUNTS: dict[str, Callable[[NodeProto, _Shapes], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
