"""Export: a network as one graph `f(*inputs, *masks)`, with the masks among its inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from mcdropout.engine.arrays import with_rows
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.mapping import unwound
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.subject import EXAMPLE_ROWS

_aten = torch.ops.aten
EXAMPLE_PAIRS = 5
"""How many pairs an exported suffix is exported with; not as many as there are rows, so that the two differ."""


class _Masked(nn.Module):
    """`f(*inputs, *masks)` as a module, the form that `torch.export` takes."""

    def __init__(self, network: Network, inputs: int) -> None:
        super().__init__()
        self.module = network.module
        self._run: Callable[..., Any] = network.run
        self._inputs = inputs

    def forward(self, *arguments: Tensor) -> Any:
        return self._run(arguments[: self._inputs], arguments[self._inputs :])


def example_masks(source: MaskSource, rows: int) -> tuple[Tensor, ...]:
    """Masks that keep everything, for `rows` rows, as tensors."""
    return tuple(torch.from_numpy(mask) for mask in source.keep_everything(rows))


def export(network: Network, inputs: tuple[Tensor, ...], source: MaskSource) -> fx.GraphModule:
    """The graph of `f(*inputs, *masks)`, free of in-place operations, with any number of rows.

    Raises whatever `torch.export` raises for a module that it cannot follow.
    """
    examples = tuple(with_rows(x, EXAMPLE_ROWS) for x in inputs)
    arguments = (*examples, *example_masks(source, EXAMPLE_ROWS))
    rows = torch.export.Dim("rows")
    row_first = [True] * len(inputs) + [site.scope == "row" for site in network.sites]
    shapes = tuple({0: rows} if first else None for first in row_first)
    masked = _Masked(network, len(inputs))
    masked.training = False  # not `eval()`, which would reach the modules whose dropout calls are gone in eval mode
    with torch.no_grad(), quiet(), unwound():
        program = torch.export.export(masked, arguments, dynamic_shapes=(shapes,), strict=False)
        module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    _keep_single_rows(module.graph)
    module.recompile()
    return module


def _keep_single_rows(graph: fx.Graph) -> None:
    """Have what takes dimensions of one entry away leave the rows, which a graph of any number may have one of."""
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "overloadpacket", None) is not _aten.squeeze:
            continue
        x, *given = node.args
        sizes = x.meta["val"].shape
        asked = range(len(sizes)) if not given else given[0] if isinstance(given[0], list | tuple) else [given[0]]
        taken = [axis % len(sizes) for axis in asked if isinstance(sizes[axis], int) and sizes[axis] == 1]
        if taken:
            node.target, node.args = _aten.squeeze.dims, (x, taken)
        else:
            node.replace_all_uses_with(x)
            graph.erase_node(node)
