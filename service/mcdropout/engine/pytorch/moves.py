"""Moves in PyTorch: done to a tensor, and written into a graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from mcdropout.engine.cutting.placement import Divide, Join, Move, Permute, Swap

_aten = torch.ops.aten


def moved(x: Tensor, moves: Sequence[Move]) -> Tensor:
    """A tensor after `moves`."""
    for move in moves:
        match move:
            case Permute(order):
                x = x.permute(order)
            case Swap():
                x = x.transpose(0, 1)
            case Divide(sizes, rest):
                x = x.reshape(*sizes, *rest)
            case Join():
                x = x.flatten(0, 1)
    return x


def write_moves(graph: fx.Graph, value: fx.Node, moves: Sequence[Move]) -> fx.Node:
    """The node that gives `value` after `moves`, which are added to `graph`."""
    for move in moves:
        match move:
            case Permute(order):
                value = graph.call_function(_aten.permute.default, (value, list(order)))
            case Swap():
                value = graph.call_function(_aten.transpose.int, (value, 0, 1))
            case Divide(sizes, rest):
                value = graph.call_function(_aten.reshape.default, (value, [*sizes, *rest]))
            case Join(rest):
                value = graph.call_function(_aten.reshape.default, (value, [-1, *rest]))
    return value
