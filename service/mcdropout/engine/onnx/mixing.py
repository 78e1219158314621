"""Mixing: what in a graph makes a row's answer follow the rows beside it, or may."""

from collections.abc import Iterator

from onnx import numpy_helper

from mcdropout.engine.onnx.dataflow import Dataflow, every_node, is_op

_COMPARING = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_PASSING = ("Cast", "CastLike", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""What makes a constant of a constant that is the same number."""
_MOST_COMPARED = 4


def mixers(flow: Dataflow) -> str | None:
    """What scales a whole batch by its extremes."""
    scaled = [node.name or node.op_type for node in every_node(flow.nodes) if is_op(node, "DynamicQuantizeLinear")]
    if not scaled:
        return None
    more = f" and {len(scaled) - 1} more" if len(scaled) > 1 else ""
    return (
        f"{scaled[0]}{more} (DynamicQuantizeLinear) scales by the extremes of a batch; static quantization is accepted"
    )


def compared(flow: Dataflow) -> list[float]:
    """Numbers that a graph compares with, the first few: one of them may be what it takes for padding."""
    found = dict.fromkeys(
        number
        for node in every_node(flow.nodes)
        if is_op(node, *_COMPARING)
        for name in node.input
        for number in _numbers(name, flow)
    )
    return list(found)[:_MOST_COMPARED]


def _numbers(name: str, flow: Dataflow) -> Iterator[float]:
    """The number that a value is all of, if that can be read off."""
    while name in flow.producers and is_op(flow.producers[name], *_PASSING):
        name = flow.producers[name].input[0]
    if name in flow.weights:
        values = numpy_helper.to_array(flow.weights[name])
        if values.size == 1 and values.dtype.kind in "iuf":
            yield values.item()
