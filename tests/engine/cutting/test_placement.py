"""Moves between layouts: out of a graph and back, and of masks; written by every form of graph as NumPy does them."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from mcdropout.engine.cutting.layout import Layout
from mcdropout.engine.cutting.placement import (
    Divide,
    Join,
    Permute,
    Swap,
    as_it_was,
    layout_of,
    mask_moves,
    parts_axis,
    rows_first,
)
from mcdropout.engine.onnx.dataflow import from_model, to_model
from mcdropout.engine.onnx.draft import Draft
from mcdropout.engine.pytorch.moves import moved, write_moves
from mcdropout.engine.sites import Site

LAYOUTS = [
    Layout((2, 3), 0),
    Layout((2, 3, 5), 1),
    Layout((2, 4, 3), 2),
    Layout((6, 5), 0, 2),
    Layout((6, 5), 0, 2, interleaved=True),
    Layout((4, 6, 5), 1, 2),
    Layout((4, 5, 12), 2, 4, interleaved=True),
    Layout((4, 5)),
]


def by_numpy(x, moves):
    for move in moves:
        match move:
            case Permute(order):
                x = x.transpose(order)
            case Swap():
                x = x.swapaxes(0, 1)
            case Divide(sizes, rest):
                x = x.reshape(*sizes, *rest)
            case Join(rest):
                x = x.reshape(-1, *rest)
    return x


def by_torch(x, moves):
    return moved(torch.from_numpy(x), moves).numpy()


def by_exported_graph(x, moves):
    graph = torch.fx.Graph()
    graph.output(write_moves(graph, graph.placeholder("x"), moves))
    return torch.fx.GraphModule({}, graph)(torch.from_numpy(x)).numpy()


def by_onnx(x, moves):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    made = helper.make_graph([], "graph", [given], [onnx.ValueInfoProto(name="y")])
    flow = from_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    draft = Draft(flow)
    nodes, last = draft.moved("x", moves)
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    flow = type(flow)(tuple(nodes), flow.inputs, ("y",), draft.weights, flow.frame, {"y": TensorProto.FLOAT})
    return ReferenceEvaluator(to_model(flow)).run(None, {"x": x})[0]


def rows_of(layout):
    """A value of three rows in a layout, and each of its rows: `[row, *layout.row_shape]`, put together by hand."""
    x = np.arange(np.prod(layout.shape), dtype=np.float32).reshape(layout.shape)
    if layout.axis is None:
        return x, x
    entries = np.moveaxis(x, layout.axis, 0)
    rows = len(entries) // layout.times
    if layout.interleaved:
        own = [entries[row::rows] for row in range(rows)]
    else:
        own = [entries[row * layout.times : (row + 1) * layout.times] for row in range(rows)]
    return x, np.stack([part if layout.merged else part[0] for part in own])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("form", [by_numpy, by_torch, by_exported_graph, by_onnx])
def test_every_form_brings_rows_first_and_back(form, layout):
    x, rows = rows_of(layout)
    np.testing.assert_array_equal(form(x, rows_first(layout)), rows)
    np.testing.assert_array_equal(form(rows, as_it_was(layout)), x)


def site(kind="element", scope="row", **more):
    return Site("drop", 0, kind, 0.5, scope, **more)


@pytest.mark.parametrize(
    ("layout", "made"),
    [
        (Layout((3, 4), 0), site(shape=(4,), row_axis=0)),
        (Layout((5, 3), 1), site(shape=(5,), row_axis=1)),
        (Layout((5, 6), 1), site(shape=(5,), row_axis=1)),
        (Layout((6, 5), 0, 2), site(shape=(2, 5), row_axis=0, rows_per_row=2)),
        (Layout((5, 6), 1, 2, interleaved=True), site(shape=(2, 5), row_axis=1, rows_per_row=2, interleaved=True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [by_numpy, by_torch, by_onnx])
def test_a_mask_goes_where_its_site_has_the_rows(form, layout, made):
    x, mask = rows_of(layout)
    np.testing.assert_array_equal(form(mask, mask_moves(made)), x)
    assert layout_of(made).row_shape == made.shape


def test_factors_and_summands_lie_behind_the_rows():
    assert parts_axis(site("alpha", shape=(4,), row_axis=0)) == 1
    assert parts_axis(site("alpha", "pass", shape=(4,), row_axis=None)) == 0
    assert parts_axis(site(shape=(4,), row_axis=0)) is None


def test_a_mask_of_a_pass_stays_as_it_is():
    assert mask_moves(site(scope="pass", shape=(4, 5), row_axis=None)) == ()
