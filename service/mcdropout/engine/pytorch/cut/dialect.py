"""Dialect: what ONNX, or PyTorch's exporter to it, takes for something else than PyTorch does, said in other words.

- An index below 0 is none in a table of embeddings, and counted from its end in ONNX.
- A query that may look at no key gets 0, and the mean over all keys, or NaN, from the exporter's attention.
- The angle of what lies on the negative half of the axis is pi, and -pi by the exporter's `atan2`.

And what ONNX Runtime takes long for: Fourier transforms.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mcdropout.engine.pytorch.cut.fourier import FOURIER

_aten = torch.ops.aten


def as_onnx_reads_it(graph: fx.GraphModule) -> fx.GraphModule:
    """A graph of which ONNX makes what PyTorch does; the graph itself, which is left as it is, where it is one."""
    if not any(node.target in _WORDS for node in graph.graph.nodes):
        return graph
    written = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copied = written.node_copy(node, copies.__getitem__)
        say = _WORDS.get(node.target)
        copies[node] = copied if say is None else say(written, copied, node)
    written.eliminate_dead_code()
    return fx.GraphModule(graph, written)


def _embedding(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    """With an index beyond the end of the table, which ONNX refuses too, in the place of one below 0."""
    table = node.args[0]
    assert isinstance(table, fx.Node)
    count = table.meta["val"].shape[0]
    given: Any = copied.args[1]
    with written.inserting_before(copied):
        below = written.call_function(_aten.lt.Scalar, (given, 0))
        guarded = written.call_function(_aten.masked_fill.Scalar, (given, below, count))
    copied.args = (copied.args[0], guarded, *copied.args[2:])
    return copied


def _attention(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    """With 0 for a query that its mask lets look at no key."""
    given = copied.args[3] if len(copied.args) > 3 else copied.kwargs.get("attn_mask")
    original = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if not isinstance(given, fx.Node) or not isinstance(original, fx.Node):
        return copied
    mask = original.meta.get("val")
    allowed = given
    if mask is None or mask.dtype != torch.bool:
        allowed = written.call_function(_aten.gt.Scalar, (given, -math.inf))
    some = written.call_function(_aten.any.dim, (allowed, -1, True))
    none = written.call_function(_aten.logical_not.default, (some,))
    return written.call_function(_aten.masked_fill.Scalar, (copied, none, 0.0))


def _atan2(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    """With pi where `y` is 0, and not -0, and `x` less; and with an `x` of 0 for one of -0."""
    y, x = copied.args
    with written.inserting_before(copied):
        none = written.call_function(_aten.eq.Scalar, (x, 0.0))
        copied.args = (y, written.call_function(_aten.masked_fill.Scalar, (x, none, 0.0)))
    conditions = (
        written.call_function(_aten.eq.Scalar, (y, 0.0)),
        written.call_function(_aten.gt.Scalar, (written.call_function(_aten.reciprocal.default, (y,)), 0.0)),
        written.call_function(_aten.lt.Scalar, (x, 0.0)),
    )
    met = conditions[0]
    for condition in conditions[1:]:
        met = written.call_function(_aten.logical_and.default, (met, condition))
    return written.call_function(_aten.masked_fill.Scalar, (copied, met, math.pi))


_WORDS: Mapping[Any, Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]] = {
    _aten.embedding.default: _embedding,
    _aten.scaled_dot_product_attention.default: _attention,
    _aten.atan2.default: _atan2,
    **FOURIER,
}
