"""Ends: the functions that make probabilities of logits at the end of a graph, and the graph without them."""

from dataclasses import dataclass, replace

from onnx import NodeProto
from onnx.numpy_helper import to_array

from mcdropout.engine.onnx.dataflow import Dataflow, Names, attribute, is_op, renamed
from mcdropout.engine.onnx.inference import label
from mcdropout.engine.settling import End

_ENDS: dict[str, End] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_ALONG_A_DIMENSION = ("Softmax", "LogSoftmax")
# What takes its place: of the logarithm of probabilities a softmax makes these again, as of the logits.
_BELOW = {"Softmax": "LogSoftmax", "Sigmoid": "Identity"}
AS_THEY_ARE = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose")
"""What gives the numbers that it takes, in other places or of another type."""
_SHAPE_KEPT = ("Identity", "Cast")
LINEAR = ("Gemm", "MatMul", "Conv", "ConvTranspose", "Einsum")
"""What, with weights of its own, makes numbers of any size."""
# What keeps them so, being their parts, sums, means and shapes; and what does with a weight.
_KEEPING = (
    *AS_THEY_ARE,
    *("Add", "Sub", "Sum", "Mean", "ReduceMean", "ReduceSum", "Concat", "Slice", "Gather", "Dropout", "Split"),
    *("AveragePool", "GlobalAveragePool", "Resize", "Expand"),
)
_SCALING = ("Mul", "Div")
_OF_SEVERAL = ("Add", "Sub", "Sum", "Mean", "Concat", *_SCALING)
_ALONG_ONE_DIMENSION = 13  # from this version on a softmax runs along one, before along all from there on


@dataclass(frozen=True)
class EndNode:
    """The node that makes an output of a graph.

    Attributes:
        name: its.
        end: which function.
        axis: the dimension of the output that it runs along, negative from the end; None where that is not known.
    """

    name: str
    end: End
    axis: int | None


def ends_of(flow: Dataflow) -> dict[str, EndNode]:
    """The nodes that make probabilities of outputs of a graph, by output."""
    found: dict[str, EndNode] = {}
    for output in flow.outputs:
        path = _back(output, flow)
        if path and _is_log_sigmoid(path[-1], flow):
            found[output] = EndNode(label(path[-1]), "log_sigmoid", None)
        if not path or not is_op(path[-1], *_ENDS):
            continue
        node, axis = path[-1], None
        if node.op_type in _ALONG_A_DIMENSION and flow.opset >= _ALONG_ONE_DIMENSION:
            same = all(is_op(other, *_SHAPE_KEPT) for other in path[:-1])
            axis = int(attribute(node, "axis", -1)) if same else None
        found[output] = EndNode(label(node), _ENDS[node.op_type], axis)
    return found


def is_linear(name: str, flow: Dataflow) -> bool:
    """Whether a value is a linear layer's, or sums and parts of that, so that it may be any number.

    Not so where its weights are all positive, which may be shares of a mixture, nor where something else is added that
    may have been made of it, as in `z - softplus(z)`.
    """
    known: dict[str, bool] = {}
    waiting = [name]
    while waiting:
        value = waiting[-1]
        node = flow.producers.get(value)
        if value in known or node is None:
            known.setdefault(value, False)
            waiting.pop()
            continue
        weights = [taken for taken in node.input if taken in flow.weights]
        if is_op(node, *LINEAR) and weights:
            known[value] = any((to_array(flow.weights[weight]) < 0).any() for weight in weights[:1])
        elif is_op(node, *_KEEPING) or (is_op(node, *_SCALING) and weights):
            taken = node.input if is_op(node, *_OF_SEVERAL) else node.input[:1]
            own = [each for each in taken if each and each not in flow.weights]
            if missing := [each for each in own if each not in known]:
                waiting += missing
                continue
            known[value] = bool(own) and all(known[each] for each in own)
        else:
            known[value] = False
    return known[name]


def without_ends(flow: Dataflow) -> Dataflow:
    """The graph with `LogSoftmax` in the place of each `Softmax` that makes an output, and without each `Sigmoid`."""
    made, names = ends_of(flow), Names(flow.names)
    nodes, outputs = list(flow.nodes), []
    for output in flow.outputs:
        path = _back(output, flow)[::-1] if output in made else []
        new = {name: names.fresh(f"{name}_logits") for node in path for name in node.output if name}
        for node in path:
            nodes.append(renamed(node, new))
            nodes[-1].name = node.name and names.fresh(f"{node.name}_logits")
            # What the function takes keeps its name; what is made of it on the way gets its new one.
            if node.op_type in _BELOW and node is path[0]:
                nodes[-1].op_type = _BELOW[node.op_type]
        outputs.append(new.get(output, output))
    return replace(flow, nodes=tuple(nodes), outputs=tuple(outputs))


def _is_log_sigmoid(node: NodeProto, flow: Dataflow) -> bool:
    """Whether a node makes `log(sigmoid(x))`, or `-softplus(-x)`, which is the same."""
    below = flow.producers.get(node.input[0]) if node.input else None
    if below is None:
        return False
    if is_op(node, "Log"):
        return is_op(below, "Sigmoid")
    under = flow.producers.get(below.input[0])
    return is_op(node, "Neg") and is_op(below, "Softplus") and under is not None and is_op(under, "Neg")


def can_be_left_out(end: End) -> bool:
    """Whether `without_ends` leaves it out."""
    return any(_ENDS[operator] == end for operator in _BELOW)


def _back(name: str, flow: Dataflow) -> list[NodeProto]:
    """The nodes from an output back to the first that computes more than another form of what it takes."""
    path: list[NodeProto] = []
    while (node := flow.producers.get(name)) is not None:
        path.append(node)
        if not is_op(node, *AS_THEY_ARE):
            break
        name = node.input[0]
    return path
