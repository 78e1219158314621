"""Graphs cut where masks enter: each is run split, unmerged and whole under random masks, and must equal itself."""

import numpy as np
import onnx
import pytest
from onnx import helper

from mcdropout.engine import Engine
from mcdropout.engine.errors import UnsupportedModelError
from tests.engine.onnx.common import (
    F16,
    F64,
    I32,
    I64,
    F,
    dropout,
    frontier,
    model,
    node,
    numbers,
    saved,
    serves,
    understood,
    value,
)

X = numbers(3, 4)
PAST_THE_DROPOUT = {"w": numbers(4, 3, seed=1), "b": numbers(3, seed=2)}


def head(source, output="y"):
    return [node("MatMul", [source, "w"], [f"{source}w"]), node("Add", [f"{source}w", "b"], [output])]


def test_what_no_mask_touches_is_the_prefix(tmp_path):
    nodes = [node("Gemm", ["x", "v"], ["h"]), node("Relu", ["h"], ["r"]), dropout("r", "d"), *head("d")]
    subject = understood(
        model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], v=numbers(4, 4), **PAST_THE_DROPOUT), tmp_path, X
    )
    cut = serves(subject)["split"]
    assert (frontier(cut), cut.outline.prefix_operations, cut.outline.suffix_operations) == ([(4,)], 2, 3)
    assert [site.name for site in subject.sites] == ["drop"]


def test_a_skip_connection_crosses_too(tmp_path):
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        dropout("r", "d"),
        node("Conv", ["d", "q"], ["e"], pads=[1, 1, 1, 1]),
        node("Add", ["e", "c"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        *head("f"),
    ]
    made = model(
        nodes,
        [value("x", ["n", 2, 5, 5])],
        [value("y", ["n", 3])],
        k=numbers(4, 2, 3, 3),
        q=numbers(4, 4, 3, 3, seed=4),
        s=numbers(4),
        t=numbers(4),
        m=numbers(4),
        v=np.abs(numbers(4)),
        **PAST_THE_DROPOUT,
    )
    cut = serves(understood(made, tmp_path, numbers(3, 2, 5, 5)))["split"]
    assert sorted(frontier(cut)) == [(4, 5, 5), (4, 5, 5)]


def test_dropout_between_recurrent_layers_keeps_its_rows_in_their_own_dimension(tmp_path):
    def lstm(source, output, index):
        return node("LSTM", [source, f"W{index}", f"R{index}"], [output], hidden_size=3, name=f"lstm{index}")

    nodes = [
        node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        lstm("steps", "h0", 0),
        node("Squeeze", ["h0", "one"], ["s0"]),
        dropout("s0", "d0"),
        lstm("d0", "h1", 1),
        node("Squeeze", ["h1", "one"], ["s1"]),
        node("Transpose", ["s1"], ["y3"], perm=[1, 0, 2]),
        node("ReduceMean", ["y3"], ["y"], axes=[1], keepdims=0),
    ]
    weights = {
        f"{which}{i}": numbers(1, 12, 4 if which == "W" and i == 0 else 3, seed=i) for which in "WR" for i in (0, 1)
    }
    made = model(nodes, [value("x", ["n", 5, 4])], [value("y", ["n", 3])], one=np.array([1]), **weights)
    subject = understood(made, tmp_path, numbers(3, 5, 4))
    (site,) = subject.sites
    assert (site.shape, site.row_axis) == ((5, 3), 1)
    assert frontier(serves(subject)["split"]) == [(5, 3)]


@pytest.mark.parametrize("interleaved", [False, True])
def test_rows_merged_with_heads_cross_whichever_lies_inside(tmp_path, interleaved):
    """As attention of older exporters: [rows, steps, heads * size] to [rows * heads, steps, size], or heads first."""
    order = [2, 0, 1, 3] if interleaved else [0, 2, 1, 3]
    back = [1, 2, 0, 3] if interleaved else [0, 2, 1, 3]
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"]),
        node("Unsqueeze", ["rows", "at0"], ["rows1"]),
        node("Concat", ["rows1", "steps_heads_size"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["x4"]),
        node("Transpose", ["x4"], ["t4"], perm=order),
        node("Reshape", ["t4", "merged"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        dropout("weights", "dropped"),
        node("MatMul", ["dropped", "q"], ["o"]),
        node(
            "Concat",
            *[[["two", "rows1", "steps_size"] if interleaved else ["rows1", "two", "steps_size"]][0], ["from"]],
            axis=0,
        ),
        node("Reshape", ["o", "from"], ["o4"]),
        node("Transpose", ["o4"], ["p4"], perm=back),
        node("Reshape", ["p4", "flat"], ["f"]),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x", ["n", 5, 4])],
        [value("y", ["n", 3])],
        zero=np.array(0),
        at0=np.array([0]),
        steps_heads_size=np.array([5, 2, 2]),
        merged=np.array([-1, 5, 2]),
        two=np.array([2]),
        steps_size=np.array([5, 2]),
        flat=np.array([0, 20]),
        w=numbers(20, 3),
    )
    subject = understood(made, tmp_path, numbers(3, 5, 4))
    (site,) = subject.sites
    assert (site.kind, site.shape, site.rows_per_row, site.interleaved) == ("attention", (2, 5, 5), 2, interleaved)
    cuts = serves(subject)
    assert [value.merged for value in cuts["split"].outline.frontier] == [True, True]
    assert not any(value.merged for value in cuts["unmerged"].outline.frontier)


def test_sizes_of_inputs_are_counted_in_pairs_in_the_suffix(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"]),
        dropout("r", "d"),
        node("Shape", ["x"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("v", F, [1], [1.0])),
        node("Add", ["d", "ones"], ["sum"]),
        node("Size", ["r"], ["count"]),
        node("Div", ["count", "four"], ["rows"]),
        node("Unsqueeze", ["rows", "at0"], ["rows1"]),
        node("Concat", ["rows1", "four1"], ["to"], axis=0),
        node("Reshape", ["sum", "to"], ["back"]),
        *head("back"),
    ]
    made = model(
        nodes,
        [value("x", ["n", 4])],
        [value("y", ["n", 3])],
        four=np.array(4),
        at0=np.array([0]),
        four1=np.array([4]),
        **PAST_THE_DROPOUT,
    )
    serves(understood(made, tmp_path, X))


def test_the_prefix_may_look_at_the_size_of_a_masked_value(tmp_path):
    nodes = [
        dropout("x", "d"),
        node("Shape", ["d"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("v", F, [1], [1.0])),
        node("Add", ["x", "ones"], ["lifted"]),
        node("MatMul", ["lifted", "v"], ["h"]),
        node("Add", ["h", "d"], ["sum"]),
        *head("sum"),
    ]
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], v=numbers(4, 4, seed=7), **PAST_THE_DROPOUT)
    cut = serves(understood(made, tmp_path, X))["split"]
    assert frontier(cut) == [(4,), (4,)]
    assert cut.outline.has_prefix


def test_a_value_without_rows_is_not_tiled(tmp_path):
    nodes = [
        node("ReduceMax", ["x"], ["top"], axes=[0, 1], keepdims=1),
        node("Sub", ["top", "top"], ["nothing"]),
        dropout("x", "d"),
        node("Add", ["d", "nothing"], ["sum"]),
        *head("sum"),
    ]
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT)
    assert frontier(serves(understood(made, tmp_path, X))["split"]) == [(4,), (1, 1, "shared")]


def test_dropout_on_a_weight_has_one_mask_for_all_rows(tmp_path):
    nodes = [dropout("w", "dropped"), node("MatMul", ["x", "dropped"], ["h"]), node("Add", ["h", "b"], ["y"])]
    subject = understood(model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT), tmp_path, X)
    serves(subject)
    (site,) = subject.sites
    assert (site.kind, site.scope, site.shape) == ("dropconnect", "pass", (4, 3))


@pytest.mark.parametrize(("kind", "dtype"), [(F16, np.float16), (F64, np.float64)])
def test_masks_take_the_type_of_the_data(tmp_path, kind, dtype):
    nodes = [node("Relu", ["x"], ["r"]), dropout("r", "d"), *head("d")]
    weights = {name: x.astype(dtype) for name, x in PAST_THE_DROPOUT.items()}
    made = model(nodes, [value("x", ["n", 4], kind)], [value("y", ["n", 3], kind)], **weights)
    subject = understood(made, tmp_path, X)
    assert subject.inputs[0].dtype == dtype
    assert subject.tolerance == (2e-2 if kind == F16 else 1e-4)
    serves(subject)


@pytest.mark.parametrize("kind", [I64, I32])
def test_whole_numbers_choose_from_an_embedding(tmp_path, kind):
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        dropout("e", "d"),
        node("ReduceMean", ["d"], ["m"], axes=[1], keepdims=0),
        *head("m"),
    ]
    made = model(nodes, [value("ids", ["n", 6], kind)], [value("y", ["n", 3])], table=numbers(9, 4), **PAST_THE_DROPOUT)
    cut = serves(understood(made, tmp_path, np.arange(18).reshape(3, 6) % 9))["split"]
    assert frontier(cut) == [(6, 4)]


def test_several_inputs_by_name_in_any_order_and_several_outputs(tmp_path):
    nodes = [
        node("Add", ["x", "z"], ["s"]),
        node("MatMul", ["s", "v"], ["h"]),
        dropout("h", "d"),
        *head("d", "mean"),
        node("MatMul", ["d", "w"], ["variance"]),
        node("Relu", ["s"], ["untouched"]),
    ]
    made = model(
        nodes,
        [value("x", ["n", 4]), value("z", ["n", 4])],
        [value("mean", ["n", 3]), value("variance", ["n", 3]), value("untouched", ["n", 4])],
        v=numbers(4, 4),
        **PAST_THE_DROPOUT,
    )
    both = {"z": numbers(2, 4, seed=5), "x": X[:2]}
    subject = understood(made, tmp_path, both)
    assert [spec.name for spec in subject.inputs] == ["z", "x"]
    serves(subject)
    chosen = understood(made, tmp_path, both, output=["variance", 0])
    serves(chosen)
    np.testing.assert_array_equal(chosen.eval_outputs()[1], subject.eval_outputs()[0])


def test_rows_may_lie_in_another_dimension_of_inputs_and_outputs(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"]),
        dropout("r", "d"),
        node("MatMul", ["v", "d"], ["y"]),
    ]
    made = model(nodes, [value("x", [4, "n"])], [value("y", [3, "n"])], v=numbers(3, 4))
    subject = understood(made, tmp_path, X.T, row_axis=1, output_row_axis=1)
    cut = serves(subject)["split"]
    (site,) = subject.sites
    assert (subject.eval_outputs()[0].shape, site.row_axis, frontier(cut)) == ((3, 3), 1, [(4,)])


def test_outputs_that_have_as_many_classes_as_there_are_examples_are_told_from_rows(tmp_path):
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), dropout("t", "d"), node("MatMul", ["v", "d"], ["y"])]
    made = model(nodes, [value("x", ["n", 4])], [value("y", [3, "n"])], v=numbers(3, 4))
    path = saved(made, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"for 2 rows the network returns .*\[\[3, 2\]\]; their first dim"):
        Engine.from_onnx(path, X)
    with pytest.raises(
        UnsupportedModelError, match="output_row_axis is 2, and the output 'y' has 2 dimensions; 0 to 1"
    ):
        Engine.from_onnx(path, X, output_row_axis=2)
    assert Engine.from_onnx(path, X, output_row_axis=1).predict(X, 3, 1).mean.shape == (3, 3)


def test_other_open_dimensions_are_those_of_the_example(tmp_path):
    nodes = [dropout("x", "d"), node("ReduceMean", ["d"], ["m"], axes=[1], keepdims=0), *head("m")]
    made = model(nodes, [value("x", ["n", "steps", 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT)
    subject = understood(made, tmp_path, numbers(3, 7, 4))
    serves(subject)
    assert subject.sites[0].shape == (7, 4)


def test_a_batch_of_one_becomes_any_number_of_rows(tmp_path):
    nodes = [node("Relu", ["x"], ["r"]), dropout("r", "d"), *head("d")]
    made = model(nodes, [value("x", [1, 4])], [value("y", [1, 3])], **PAST_THE_DROPOUT)
    del made.graph.node[1].input[2]  # as in inference
    subject = understood(made, tmp_path, X)
    serves(subject)


def test_tensors_may_lie_in_another_file(tmp_path):
    nodes = [node("MatMul", ["x", "v"], ["h"]), dropout("h", "d"), node("MatMul", ["d", "u"], ["y"])]
    made = model(nodes, [value("x", ["n", 64])], [value("y", ["n", 3])], v=numbers(64, 64), u=numbers(64, 3))
    onnx.save(made, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 16384
    from mcdropout.engine.onnx.model import understand

    serves(understand(tmp_path / "model.onnx", numbers(3, 64)))


def test_functions_are_written_out(tmp_path):
    body = [node("Dropout", ["a", "r", "t"], ["dropped"], name="inner"), node("Relu", ["dropped"], ["b"])]
    function = helper.make_function("own", "Block", ["a", "r", "t"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        node("Block", ["x", "ratio", "on"], ["h"], domain="own", name="first"),
        node("Block", ["h", "ratio", "on"], ["g"], domain="own", name="second"),
        *head("g"),
    ]
    made = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], functions=[function], domains=["own"], **PAST_THE_DROPOUT
    )
    subject = understood(made, tmp_path, X)
    serves(subject)
    assert len({site.name for site in subject.sites}) == 2


def test_a_branch_that_sizes_decide_is_written_out(tmp_path):
    """As `x.squeeze(1)` of a scripted network: an If on whether the dimension is 1."""
    then = helper.make_graph([node("Squeeze", ["x", "at1"], ["a"])], "then", [], [value("a", None)])
    other = helper.make_graph([node("Identity", ["x"], ["a"])], "else", [], [value("a", None)])
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["size"]),
        node("Equal", ["size", "one"], ["is1"]),
        node("If", ["is1"], ["s"], then_branch=then, else_branch=other, name="squeeze"),
        dropout("s", "d"),
        *head("d"),
    ]
    made = model(
        nodes,
        [value("x", ["n", "c", 4])],
        [value("y", ["n", 3])],
        one=np.array(1),
        at1=np.array([1]),
        **PAST_THE_DROPOUT,
    )
    cut = serves(understood(made, tmp_path, numbers(3, 1, 4)))["split"]
    assert frontier(cut) == [(4,)]
    assert not any(x.op_type == "If" for x in cut.suffix.nodes)


def test_dropout_in_a_branch_that_is_settled_is_a_site(tmp_path):
    then = helper.make_graph([dropout("x", "a", "inside")], "then", [], [value("a", ["n", 4])])
    other = helper.make_graph([node("Identity", ["x"], ["a"])], "else", [], [value("a", ["n", 4])])
    nodes = [node("If", ["on"], ["d"], then_branch=then, else_branch=other), *head("d")]
    subject = understood(model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT), tmp_path, X)
    serves(subject)
    assert [site.name for site in subject.sites] == ["inside"]


def test_nodes_of_two_branches_may_have_one_name(tmp_path):
    nodes = [dropout("x", "d0", "inside")]
    for before, after in (("d0", "d1"), ("d1", "d")):
        then = helper.make_graph([dropout(before, "a", "inside")], "then", [], [value("a", ["n", 4])])
        other = helper.make_graph([node("Identity", [before], ["a"])], "else", [], [value("a", ["n", 4])])
        nodes.append(node("If", ["on"], [after], then_branch=then, else_branch=other, name=f"if_{after}"))
    made = model([*nodes, *head("d")], [value("x", ["n", 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT)
    subject = understood(made, tmp_path, X)
    serves(subject)
    assert [site.name for site in subject.sites] == ["inside", "if_d1/inside", "if_d/inside"]


def test_a_branch_that_data_decides_stays_and_may_be_masked_from_outside(tmp_path):
    then = helper.make_graph([node("Identity", ["d"], ["a"])], "then", [], [value("a", ["n", 4])])
    other = helper.make_graph([node("Neg", ["d"], ["a"])], "else", [], [value("a", ["n", 4])])
    nodes = [
        node("ReduceMax", ["k"], ["top"], axes=[0, 1], keepdims=0),
        node("ReduceMin", ["x"], ["low"], axes=[0, 1], keepdims=0),
        node("Less", ["low", "top"], ["yes"]),
        dropout("x", "d"),
        node("If", ["yes"], ["s"], then_branch=then, else_branch=other),
        *head("s"),
    ]
    made = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], k=np.full((2, 2), 99, np.float32), **PAST_THE_DROPOUT
    )
    serves(understood(made, tmp_path, X))


def test_values_of_which_a_row_has_as_many_as_data_say_do_not_cross(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["where"]),
        node("Cast", ["where"], ["w_"], to=F),
        node("ReduceSum", ["w_", "axes"], ["total"], keepdims=0),
        node("Mul", ["total", "nought"], ["zero"]),
        dropout("x", "d"),
        node("Add", ["d", "zero"], ["sum"]),
        *head("sum"),
    ]
    made = model(
        nodes,
        [value("x", ["n", 4])],
        [value("y", ["n", 3])],
        axes=np.array([0, 1]),
        nought=np.float32(0),
        **PAST_THE_DROPOUT,
    )
    assert frontier(serves(understood(made, tmp_path, X))["split"]) == [(4,), (4,)]


def test_a_sequence_cannot_cross_and_is_made_in_the_suffix(tmp_path):
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("SplitToSequence", ["r"], ["parts"], axis=1),
        dropout("x", "d"),
        node("SequenceInsert", ["parts", "d"], ["more"]),
        node("ConcatFromSequence", ["more"], ["joined"], axis=1),
        node("ReduceMean", ["joined"], ["m"], axes=[1], keepdims=0),
        *head("m"),
    ]
    made = model(nodes, [value("x", ["n", 2, 4])], [value("y", ["n", 3])], **PAST_THE_DROPOUT)
    assert frontier(serves(understood(made, tmp_path, numbers(3, 2, 4)))["split"]) == [(2, 4), (2, 4)]


def test_names_that_the_programs_use_themselves_may_be_taken(tmp_path):
    nodes = [
        node("Relu", ["rows"], ["frontier_0"]),
        dropout("frontier_0", "mask_0", name=""),
        *head("mask_0", "count"),
    ]
    made = model(nodes, [value("rows", ["n", 4])], [value("count", ["n", 3])], **PAST_THE_DROPOUT)
    subject = understood(made, tmp_path, X)
    serves(subject)
    assert [site.name for site in subject.sites] == ["mask_0"]


def test_inputs_with_a_value_of_their_own_need_none(tmp_path):
    """Before version 4 of the format all initializers were inputs; later ones may be overridden."""
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["y"])]
    made = model(nodes, [value("x", ["n", 4]), value("w", [4, 3])], [value("y", ["n", 3])], **PAST_THE_DROPOUT)
    subject = understood(made, tmp_path, X)
    assert [spec.name for spec in subject.inputs] == ["x"]
    serves(subject)


def test_a_model_of_the_oldest_format_serves(tmp_path):
    nodes = [node("Dropout", ["x"], ["d"], ratio=0.25, name="drop"), node("MatMul", ["d", "w"], ["y"])]
    given = [value("x", ["n", 4]), value("w", [4, 3])]
    made = model(nodes, given, [value("y", ["n", 3])], opset=7, ir=3, w=PAST_THE_DROPOUT["w"])
    subject = understood(made, tmp_path, X)
    serves(subject)
    assert subject.sites[0].p == 0.25
