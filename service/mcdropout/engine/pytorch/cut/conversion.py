"""Conversion: a split network as ONNX."""

import onnx
import torch
from torch import Tensor, fx

from mcdropout.engine.onnx.write import Halves
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS
from mcdropout.engine.pytorch.cut.split import Split
from mcdropout.engine.pytorch.cut.torchlib import read_once
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.subject import EXAMPLE_ROWS

_Shapes = list[dict[int, torch.export.Dim] | None]


def convert(split: Split, inputs: tuple[Tensor, ...], masks: tuple[Tensor, ...], per_pair: list[bool]) -> Halves:
    """Both halves of a program as ONNX.

    Args:
        split: the program.
        inputs: example inputs, `[EXAMPLE_ROWS, ...]` each.
        masks: example masks, `[EXAMPLE_PAIRS, ...]` each where `per_pair` says so.
        per_pair: for each mask, whether its first dimension is the pair.

    Raises whatever `torch.onnx.export` raises for a graph that it cannot write.
    """
    rows, pairs = torch.export.Dim("rows"), torch.export.Dim("pairs")
    with torch.no_grad():
        frontier = tuple(split.prefix(*inputs))
    prefix = None
    if split.outline.has_prefix:
        prefix = _converted(split.prefix, inputs, [{0: rows}] * len(inputs))
    shapes: _Shapes = [{0: pairs}, *({0: rows} if value.per_row else None for value in split.frontier)]
    shapes += [{0: pairs} if own else None for own in per_pair]
    taken = torch.arange(EXAMPLE_PAIRS) % EXAMPLE_ROWS
    suffix = _converted(split.suffix, (taken, *frontier, *masks), shapes)
    return Halves(prefix, suffix, _placeholders(split.prefix), _placeholders(split.suffix), split.outline)


def _placeholders(graph: fx.GraphModule) -> tuple[str, ...]:
    return tuple(node.name for node in graph.graph.nodes if node.op == "placeholder")


def _converted(graph: fx.GraphModule, examples: tuple[Tensor, ...], shapes: _Shapes) -> onnx.ModelProto:
    with quiet(), read_once():
        program = torch.onnx.export(
            graph,
            examples,
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            input_names=list(_placeholders(graph)),
            verbose=False,
        )
    assert program is not None
    return program.model_proto
