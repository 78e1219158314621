"""Exported graphs as the cut sees them: each node is a value, and each call an operation."""

import math
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
        row_symbol: what the number of rows is called in sizes.
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
        self.row_symbol = self.inputs[0].meta["val"].shape[0].node.expr
        given = [size for node in placeholders for size in node.meta["val"].shape if isinstance(size, torch.SymInt)]
        self._hints = {size.node.expr: size.node.hint for size in given if size.node.expr.is_Symbol}
        self._hints[self.row_symbol] = 1

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
        sizes = tuple(value.meta["val"].shape)
        shape = tuple(map(self._of_one_row, sizes))
        grows = [axis for axis, size in enumerate(sizes) if self._follows_rows(size)]
        if not all(map(self._is_known, sizes)):
            return Layout(shape, known=False)
        if not grows:
            return Layout(shape)
        (axis, *others) = grows
        times = self.times_rows(sizes[axis])
        # Where a row is several entries of a dimension, it is brought elsewhere by sizes that are known here.
        varies = times != 1 and any(isinstance(size, torch.SymInt) for size in (*sizes[:axis], *sizes[axis + 1 :]))
        if others or times is None or varies:
            return Layout(shape, known=False)
        return Layout(shape, axis, times)

    def times_rows(self, size: Any) -> int | None:
        """How many times the number of rows a size is; None where it is no multiple of it."""
        times = size.node.expr / self.row_symbol
        return int(times) if times.is_Integer else None

    def _follows_rows(self, size: Any) -> bool:
        return isinstance(size, torch.SymInt) and self.row_symbol in size.node.expr.free_symbols

    def _of_one_row(self, size: Any) -> int:
        """A size where there is one row, and the inputs are of the sizes of the examples; 1 where values decide."""
        if not self._is_known(size):
            return 1
        return int(size.node.expr.subs(self._hints)) if isinstance(size, torch.SymInt) else int(size)

    def _is_known(self, size: Any) -> bool:
        """Whether a size follows from those of the inputs, and not from what they hold."""
        return not isinstance(size, torch.SymInt) or size.node.expr.free_symbols <= self._hints.keys()

    def row_bytes(self, value: fx.Node) -> int:
        """The memory that one row of a tensor takes, in bytes; 0 where it has none, or is no tensor."""
        found = value.meta["val"]
        if not isinstance(found, Tensor):
            return 0
        if all(self._is_known(size) and not self._follows_rows(size) for size in found.shape):
            return 0
        return math.prod(map(self._of_one_row, found.shape)) * found.element_size()
