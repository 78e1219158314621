"""Chains in ONNX graphs: suffixes that the native runtime can run, recognised whoever wrote them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from mcdropout.engine.chain import Chain, Layer
from mcdropout.engine.onnx.dataflow import Dataflow, attribute, from_model, is_op
from mcdropout.engine.program import Outline
from mcdropout.engine.sites import Site

# What a ReLU is expected to let through; in trained networks it is less.
_SHARE_BEHIND_RELU = 0.5
_RESHAPES = ("Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze")


def recognise(
    suffix: onnx.ModelProto, prefix: onnx.ModelProto | None, outline: Outline, sites: Sequence[Site]
) -> Chain | None:
    """The chain that a suffix is, or None where it is anything else.

    A chain begins with one value a row and goes from linear layer to linear layer. Between them there may be a ReLU and
    then a mask of one factor a unit; anything else, such as another activation, a skip connection or a normalization,
    makes it no chain.

    Args:
        suffix: `(rows, frontier, *masks) -> outputs`, with all tensors in memory.
        prefix: `(*inputs) -> frontier`; None where the frontier is inputs.
        outline: of both.
        sites: what the masks are of.
    """
    flow = from_model(suffix)
    given = [value.name for value in flow.inputs]
    frontier = outline.frontier
    # A graph may lack inputs that it has no use for; that of a chain has use for all but, where there is one row, rows.
    if len(frontier) != 1 or not frontier[0].per_row or frontier[0].merged or len(flow.outputs) != 1:
        return None
    if len(given) != 2 + len(sites):
        return None
    rows, start, *masks = given
    layers: list[Layer] = []
    name, width = flow.outputs[0], None
    # From the output back: a node that depends on nothing but the one before it leaves nothing out.
    while not _takes_rows(node := flow.producers.get(name), start, rows, flow):
        found = None if node is None else _layer_before(node, flow, masks, sites)
        if found is None or (width is not None and len(found[0].weight) != width):
            return None
        layer, name = found
        layers.insert(0, layer)
        width = layer.weight.shape[1]
    if not layers or width != math.prod(frontier[0].shape):
        return None
    origin, behind_relu = frontier[0].input, False
    if prefix is not None:
        origin, behind_relu = _origin(from_model(prefix))
    if behind_relu and not layers[0].relu:
        layers[0] = replace(layers[0], density=_SHARE_BEHIND_RELU * layers[0].density)
    return Chain(tuple(layers), origin)


def _takes_rows(node: NodeProto | None, start: str, rows: str, flow: Dataflow) -> bool:
    """Whether a node takes the row of each pair from the frontier."""
    if node is None or not is_op(node, "Gather") or attribute(node, "axis", 0) != 0:
        return False
    return node.input[0] == start and _before_reshapes(node.input[1], flow) == rows


def _before_reshapes(name: str, flow: Dataflow) -> str:
    """The value that another is with its entries in the same order."""
    while (node := flow.producers.get(name)) is not None and is_op(node, *_RESHAPES):
        name = node.input[0]
    return name


def _origin(prefix: Dataflow) -> tuple[int | None, bool]:
    """Which input a prefix only gives another shape, and whether what it computes comes out of a ReLU."""
    name = _before_reshapes(prefix.outputs[0], prefix)
    given = [value.name for value in prefix.inputs]
    node = prefix.producers.get(name)
    return given.index(name) if name in given else None, node is not None and is_op(node, "Relu")


@dataclass(frozen=True)
class _Linear:
    """`weight @ x + bias` as nodes have it: what they take, and the weights with their names."""

    source: str
    weight: npt.NDArray[np.float32]
    weight_name: str
    transposed: bool
    bias: npt.NDArray[np.float32] | None = None
    bias_name: str | None = None


def _layer_before(node: NodeProto, flow: Dataflow, masks: list[str], sites: Sequence[Site]) -> tuple[Layer, str] | None:
    """The layer that ends with `node`, and the value that it takes."""
    while is_op(node, "Identity") and node.input[0] in flow.producers:
        node = flow.producers[node.input[0]]
    linear = _linear(node, flow)
    if linear is None:
        return None
    source, mask, relu = linear.source, None, False
    while (before := flow.producers.get(source)) is not None and is_op(before, "Mul", "Relu", *_RESHAPES):
        if is_op(before, "Mul"):
            # A mask in front of the ReLU is another function where it meets an infinity.
            factors = [name for name in before.input if name in masks]
            if mask is not None or relu or len(factors) != 1:
                return None
            mask = masks.index(factors[0])
            if sites[mask].scope != "row" or sites[mask].mask_shape != (linear.weight.shape[1],):
                return None
            source = next(name for name in before.input if name != factors[0])
        else:
            relu = relu or is_op(before, "Relu")
            source = before.input[0]
    dropped = 0.0 if mask is None else sites[mask].p or 0.0
    density = (1.0 - dropped) * (_SHARE_BEHIND_RELU if relu else 1.0)
    layer = Layer(
        linear.weight, linear.bias, relu, mask, density, linear.weight_name, linear.bias_name, linear.transposed
    )
    return layer, source


def _linear(node: NodeProto, flow: Dataflow) -> _Linear | None:
    """A linear layer: `Gemm`, or `MatMul` with or without an `Add` behind it."""
    if is_op(node, "Gemm"):
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(
            node, "transA", 0
        )
        bias = node.input[2] if len(node.input) > 2 else ""
        source, weight = node.input[:2]
        return _with_weights(source, weight, bias, not attribute(node, "transB", 0), flow) if plain else None
    bias = ""
    if is_op(node, "Add"):
        product, bias = node.input if node.input[1] in flow.weights else reversed(node.input)
        if product not in flow.producers or bias not in flow.weights:
            return None
        node = flow.producers[product]
    if not is_op(node, "MatMul"):
        return None
    source, weight = node.input
    return _with_weights(source, weight, bias, True, flow)


def _with_weights(source: str, weight: str, bias: str, transposed: bool, flow: Dataflow) -> _Linear | None:
    turn = flow.producers.get(weight)
    if turn is not None and is_op(turn, "Transpose") and attribute(turn, "perm", [1, 0]) == [1, 0]:
        weight, transposed = turn.input[0], not transposed
    matrix = _numbers(flow.weights.get(weight), 2)
    if matrix is None:
        return None
    matrix = matrix.T if transposed else matrix
    if not bias:
        return _Linear(source, matrix, weight, transposed)
    vector = _numbers(flow.weights.get(bias), 1)
    if vector is None or len(vector) != len(matrix):
        return None
    return _Linear(source, matrix, weight, transposed, vector, bias)


def _numbers(given: TensorProto | None, dimensions: int) -> npt.NDArray[np.float32] | None:
    """The finite float32 numbers of a tensor of so many dimensions, if it is one."""
    if given is None or given.data_type != TensorProto.FLOAT or len(given.dims) != dimensions:
        return None
    values: npt.NDArray[np.float32] = numpy_helper.to_array(given)
    return values if bool(np.isfinite(values).all()) else None
