"""Export: a network as one graph `f(*inputs, *masks)`, with the masks among its inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mcdropout.engine.arrays import with_rows
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.cut.fourier import parts_of
from mcdropout.engine.pytorch.cut.guards import check_guards
from mcdropout.engine.pytorch.cut.lengths import open_lengths
from mcdropout.engine.pytorch.mapping import unwound
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.sites import Site
from mcdropout.engine.sizes import Named, Sizing
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


def export(
    network: Network, inputs: tuple[Tensor, ...], source: MaskSource, sizing: Sizing | None = None
) -> fx.GraphModule:
    """The graph of `f(*inputs, *masks)`, free of in-place operations, with any number of rows, and of any sizes.

    Raises whatever `torch.export` raises for a module that it cannot follow.
    """
    examples = tuple(with_rows(x, EXAMPLE_ROWS) for x in inputs)
    arguments = (*examples, *example_masks(source, EXAMPLE_ROWS))
    rows = torch.export.Dim("rows")
    shapes = [*({0: rows} for _ in inputs), *({0: rows} if site.scope == "row" else {} for site in network.sites)]
    for shape, axes in zip(shapes, axes_of(sizing, network.sites, len(inputs)), strict=True):
        shape.update(dict.fromkeys(axes, torch.export.Dim.AUTO))
    masked = _Masked(network, len(inputs))
    masked.training = False  # not `eval()`, which would reach the modules whose dropout calls are gone in eval mode
    with torch.no_grad(), quiet(), unwound(), open_lengths():
        program = torch.export.export(
            masked, arguments, dynamic_shapes=(tuple(shape or None for shape in shapes),), strict=False
        )
        program = program.run_decompositions(parts_of(program.graph))
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    if sizing is not None:
        _check_named(module, sizing)
        check_guards(module, network, inputs, sizing)
    _keep_single_rows(module.graph)
    module.recompile()
    return module


def axes_of(sizing: Sizing | None, sites: Sequence[Site], inputs: int) -> list[tuple[int, ...]]:
    """For each input, and then for each site's mask, `[rows, ...]` or not, the dimensions that follow sizes."""
    if sizing is None:
        return [()] * (inputs + len(sites))
    named = [tuple(axis for axis, x in enumerate(shape, 1) if isinstance(x, Named)) for shape in sizing.shapes]
    masks: list[tuple[int, ...]] = []
    for site, extents in zip(sites, sizing.extents, strict=True):
        first = (site.scope == "row") + site.shifted
        masks.append(tuple(axis for axis, extent in enumerate(extents, first) if extent.growths))
    return [*named, *masks]


def _check_named(module: fx.GraphModule, sizing: Sizing) -> None:
    """Raise where the exporter has taken a size of the examples for the only one."""
    placeholders = (node for node in module.graph.nodes if node.op == "placeholder")
    for node, shape in zip(placeholders, sizing.shapes, strict=False):
        for size, dimension in zip(node.meta["val"].shape[1:], shape, strict=True):
            if isinstance(dimension, Named) and not isinstance(size, torch.SymInt):
                raise UnsupportedModelError(f"it fixes {dimension.name} at {size}")


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
