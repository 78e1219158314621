"""Exported graphs as the cut sees them: each node is a value, and each call an operation."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from mcdropout.engine.cutting.graph import Operation
from mcdropout.engine.cutting.layout import Layout


class ExportedGraph:
    """A `CutGraph` over an exported `f(*inputs, *masks)`.

    What the shapes show of a value is how many entries a row has along one dimension. Whether these are neighbours they
    do not show: that is taken for granted here, and has to be checked.

    Attributes:
        module: as `export` returns it.
        nodes: all its nodes, in order.
    """

    counts_sizes = False

    def __init__(self, module: fx.GraphModule, inputs: int) -> None:
        """`inputs` is how many of its placeholders are inputs; the others are masks."""
        self.module = module
        self.nodes: tuple[fx.Node, ...] = tuple(module.graph.nodes)
        placeholders = tuple(node for node in self.nodes if node.op == "placeholder")
        self.inputs, self.masks = placeholders[:inputs], placeholders[inputs:]
        leaves = torch.utils._pytree.tree_leaves(self.nodes[-1].args[0])
        self.outputs: tuple[fx.Node, ...] = tuple(out for out in leaves if isinstance(out, fx.Node))
        self._row_symbol = self.inputs[0].meta["val"].shape[0].node.expr

    @cached_property
    def operations(self) -> tuple[Operation[fx.Node], ...]:
        """The calls; all that give no tensor give a size, or say something of one."""
        return tuple(
            Operation(tuple(node.all_input_nodes), (node,), not isinstance(node.meta.get("val"), Tensor | tuple | list))
            for node in self.nodes
            if node.op == "call_function"
        )

    def is_array(self, value: fx.Node) -> bool:
        """Whether a value is a tensor."""
        return isinstance(value.meta["val"], Tensor)

    def layout(self, value: fx.Node) -> Layout:
        """Where a tensor has its rows; its shape is that with one row."""
        shape = tuple(value.meta["val"].shape)
        grows = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
        if not grows:
            return Layout(shape)
        (axis, *others) = grows
        times = self.times_rows(shape[axis])
        if others or times is None:
            return Layout(shape, known=False)
        return Layout((*shape[:axis], times, *shape[axis + 1 :]), axis, times)

    def times_rows(self, size: Any) -> int | None:
        """How many times the number of rows a size is; None where it is no multiple of it."""
        times = size.node.expr / self._row_symbol
        return int(times) if times.is_Integer else None

    def row_bytes(self, value: fx.Node) -> int:
        """The memory that one row of a tensor takes, in bytes; 0 where it has none, or is no tensor."""
        found = value.meta["val"]
        if not isinstance(found, Tensor) or not isinstance(elements := found.numel(), torch.SymInt):
            return 0
        count = elements.node.expr
        return int(count.subs(dict.fromkeys(count.free_symbols, 1))) * found.element_size()
