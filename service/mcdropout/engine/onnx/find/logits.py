"""Logits: outputs that a softmax makes, as its logarithm, of which a softmax makes them again."""

from dataclasses import replace

from onnx import NodeProto

from mcdropout.engine.onnx.dataflow import Dataflow, Names, is_op, renamed
from mcdropout.engine.onnx.inference import label

_AS_THEY_ARE = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")


def softmax_of(flow: Dataflow) -> dict[str, str]:
    """The names of the nodes `Softmax` that make outputs of a graph, by output."""
    found: dict[str, str] = {}
    for output in flow.outputs:
        path = _back(output, flow)
        if path and is_op(path[-1], "Softmax"):
            found[output] = label(path[-1])
    return found


def with_logits(flow: Dataflow) -> Dataflow:
    """The graph with `LogSoftmax` in the place of each `Softmax` that makes an output."""
    made, names = softmax_of(flow), Names(flow.names)
    nodes, outputs = list(flow.nodes), []
    for output in flow.outputs:
        path = _back(output, flow)[::-1] if output in made else []
        new = {name: names.fresh(f"{name}_logits") for node in path for name in node.output if name}
        for node in path:
            nodes.append(renamed(node, new))
            # What the softmax takes keeps its name; what is made of it on the way gets its new one.
            if is_op(node, "Softmax"):
                nodes[-1].op_type = "LogSoftmax"
        outputs.append(new.get(output, output))
    return replace(flow, nodes=tuple(nodes), outputs=tuple(outputs))


def _back(name: str, flow: Dataflow) -> list[NodeProto]:
    """The nodes from an output back to the first that computes more than another form of what it takes."""
    path: list[NodeProto] = []
    while (node := flow.producers.get(name)) is not None:
        path.append(node)
        if not is_op(node, *_AS_THEY_ARE):
            break
        name = node.input[0]
    return path
