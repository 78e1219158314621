"""Drafts: a graph that is being made of another, with names and weights for what is new in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.cutting.placement import Divide, Join, Move, Permute, Swap
from mcdropout.engine.onnx.dataflow import Dataflow, Names, tensor


class Draft:
    """What is new in a graph that is being made.

    Attributes:
        names: gives names that no value of the other graph has.
        weights: those of the other graph, and what is new.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.names = Names(flow.names)
        self.weights: dict[str, TensorProto] = dict(flow.weights)

    def constant(self, wanted: str, values: Array) -> str:
        """The name of a new weight: `wanted`, with a number where it is taken."""
        name = self.names.fresh(wanted)
        self.weights[name] = tensor(name, values)
        return name

    def whole_numbers(self, values: int | Sequence[int]) -> str:
        """The name of a new weight of int64."""
        return self.constant("sizes", np.array(values, np.int64))

    def moved(self, name: str, moves: Sequence[Move]) -> tuple[list[NodeProto], str]:
        """The nodes that bring a value to other places, and what comes out of the last."""
        nodes: list[NodeProto] = []
        for move in moves:
            operator, inputs, attributes = self._written(move)
            new = self.names.fresh(f"{name}_{operator.lower()}")
            nodes.append(helper.make_node(operator, [name, *inputs], [new], **attributes))
            name = new
        return nodes, name

    def _written(self, move: Move) -> tuple[str, list[str], dict[str, Any]]:
        """The operator of a move, its inputs behind the value, and its attributes."""
        match move:
            case Permute(order):
                return "Transpose", [], {"perm": list(order)}
            case Swap(rank):
                return "Transpose", [], {"perm": [1, 0, *range(2, rank)]}
            case Divide(sizes, rest):
                return "Reshape", [self.whole_numbers([*sizes, *rest])], {}
            case Join(rest):
                return "Reshape", [self.whole_numbers([-1, *rest])], {}
