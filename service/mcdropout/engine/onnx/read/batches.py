"""Batches: graphs that were exported for a fixed number of rows, made to take any."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, numpy_helper

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.cutting.layout import ROWS
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.onnx.dataflow import DATA, Dataflow, Names, is_op, levels, renamed, sizes_alone, tensor
from mcdropout.engine.onnx.inference import silenced
from mcdropout.engine.onnx.measuring import Probe


def for_any_rows(flow: Dataflow, arrays: Sequence[Array]) -> Dataflow:
    """The graph itself, where it runs with other numbers of rows, or with its reshapes opened.

    A `Reshape` to a shape that is written down has the rows among its numbers. Where the first of them is worked out
    instead, the graph says the same of the rows that it was exported for; whether of others too, is checked later
    against the file.

    Raises:
        UnsupportedModelError: it does not run either way.
    """
    try:
        _run(flow, arrays)
        return flow
    except UnsupportedModelError:
        opened = _opened(flow)
        if opened is None:
            raise
        try:
            _run(opened, arrays)
        except UnsupportedModelError:
            opened = None
        if opened is None:
            raise
        return opened


def _run(flow: Dataflow, arrays: Sequence[Array]) -> None:
    probe = Probe(silenced(flow))
    for rows in ROWS:
        probe.run([with_rows(x, rows) for x in arrays])


def _opened(flow: Dataflow) -> Dataflow | None:
    """The graph with the first number of written-down shapes left open; None where there are none."""
    level, weights, names = levels(flow, sizes_alone(flow)), dict(flow.weights), Names(flow.names)
    nodes: list[NodeProto] = []
    for node in flow.nodes:
        shape = flow.weights.get(node.input[1]) if is_op(node, "Reshape") and level[node.input[0]] == DATA else None
        sizes = numpy_helper.to_array(shape).ravel().tolist() if shape is not None else []
        if sizes and sizes[0] > 0:
            open_size = names.fresh(f"{node.input[1]}_open")
            first = 0 if -1 in sizes else -1  # what it takes has as many, where another is worked out already
            weights[open_size] = tensor(open_size, np.array([first, *sizes[1:]], np.int64))
            node = renamed(node, {})
            node.input[1] = open_size
        nodes.append(node)
    return replace(flow, nodes=tuple(nodes), weights=weights) if len(weights) > len(flow.weights) else None
