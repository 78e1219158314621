"""Conversion: a split network as ONNX."""

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx

from mcdropout.engine.onnx.write import Halves
from mcdropout.engine.pytorch.cut.dialect import as_onnx_reads_it
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS
from mcdropout.engine.pytorch.cut.split import Split
from mcdropout.engine.pytorch.cut.torchlib import read_once
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.subject import EXAMPLE_ROWS

_Shapes = list[dict[int, Any] | None]


def convert(
    split: Split,
    inputs: tuple[Tensor, ...],
    masks: tuple[Tensor, ...],
    per_pair: list[bool],
    axes: Sequence[tuple[int, ...]],
) -> Halves:
    """Both halves of a program as ONNX.

    Args:
        split: the program.
        inputs: example inputs, `[EXAMPLE_ROWS, ...]` each.
        masks: example masks, `[EXAMPLE_PAIRS, ...]` each where `per_pair` says so.
        per_pair: for each mask, whether its first dimension is the pair.
        axes: for each input, and then for each mask, the dimensions that follow sizes of the inputs.

    Raises whatever `torch.onnx.export` raises for a graph that it cannot write.
    """
    rows, pairs = torch.export.Dim("rows"), torch.export.Dim("pairs")
    with torch.no_grad():
        frontier = tuple(split.prefix(*inputs))
    prefix = None
    if split.outline.has_prefix:
        prefix = _converted(split.prefix, inputs, [{0: rows, **_auto(own)} for own in axes[: len(inputs)]])
        _open(prefix, split.named_axes)
    shapes: _Shapes = [{0: pairs}]
    for value, own in zip(split.frontier, split.named_axes, strict=True):
        shapes.append(({0: rows} if value.per_row else {}) | _auto(own) or None)
    for is_own, own in zip(per_pair, axes[len(inputs) :], strict=True):
        shapes.append(({0: pairs} if is_own else {}) | _auto(own) or None)
    taken = torch.arange(EXAMPLE_PAIRS) % EXAMPLE_ROWS
    suffix = _converted(split.suffix, (taken, *frontier, *masks), shapes)
    return Halves(prefix, suffix, _placeholders(split.prefix), _placeholders(split.suffix), split.outline)


def _open(model: onnx.ModelProto, axes: Sequence[tuple[int, ...]]) -> None:
    """Have a graph's outputs declared with any size along some dimensions, whatever an exporter says of them.

    Of recurrent layers PyTorch says that they give as many steps as in the example; with what else it says of values in
    between, ONNX Runtime would make that so.
    """
    if not any(axes):
        return
    for index, (output, own) in enumerate(zip(model.graph.output, axes, strict=True)):
        for axis in own:
            output.type.tensor_type.shape.dim[axis].dim_param = f"frontier_{index}_{axis}"
    model.graph.ClearField("value_info")


def _auto(axes: tuple[int, ...]) -> dict[int, Any]:
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _placeholders(graph: fx.GraphModule) -> tuple[str, ...]:
    return tuple(node.name for node in graph.graph.nodes if node.op == "placeholder")


def _converted(graph: fx.GraphModule, examples: tuple[Tensor, ...], shapes: _Shapes) -> onnx.ModelProto:
    with quiet(), read_once():
        program = torch.onnx.export(
            as_onnx_reads_it(graph),
            examples,
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            input_names=list(_placeholders(graph)),
            verbose=False,
        )
    assert program is not None
    return program.model_proto
