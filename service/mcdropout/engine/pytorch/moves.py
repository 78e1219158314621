"""Moves in PyTorch: the operator of each, to be called with a tensor or written into a graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mcdropout.engine.cutting.placement import Move, Permute, Reshape

_aten = torch.ops.aten


def _call(move: Move) -> tuple[Any, tuple[Any, ...]]:
    """An operator, and its arguments behind the tensor."""
    match move:
        case Permute(order):
            return _aten.permute.default, (list(order),)
        case Reshape(sizes):
            return _aten.reshape.default, (list(sizes),)


def moved(x: Tensor, moves: Sequence[Move]) -> Tensor:
    """A tensor after `moves`."""
    for move in moves:
        operator, arguments = _call(move)
        x = operator(x, *arguments)
    return x


def write_moves(graph: fx.Graph, value: fx.Node, moves: Sequence[Move]) -> fx.Node:
    """The node that gives `value` after `moves`, which are added to `graph`."""
    for move in moves:
        operator, arguments = _call(move)
        value = graph.call_function(operator, (value, *arguments))
    return value
