"""Dropout added to an ONNX graph: it answers as a loop that drops behind the nodes that are named."""

import numpy as np
import pytest

from mcdropout.engine import Engine, InvalidInputError, Selection, UnsupportedModelError
from mcdropout.engine.onnx.added import before_last_linear
from mcdropout.engine.onnx.dataflow import from_model
from tests.engine.onnx.common import F, dropout, model, node, numbers, saved, understood, value

X = numbers(3, 4, seed=5)
FIRST, LAST = numbers(4, 8, seed=1), numbers(8, 3, seed=2)
KERNEL, HEAD = numbers(5, 2, 3, 3, seed=3), numbers(5, 3, seed=4)


def perceptron(*own, opset=17, **more):
    """relu(x W) V, perhaps with nodes of its own between `hidden` and `taken`."""
    nodes = [
        node("MatMul", ["x", "first"], ["product"], name="dense/MatMul"),
        node("Relu", ["product"], ["hidden"], name="dense/Relu"),
        *own,
        node("MatMul", ["taken" if own else "hidden", "last"], ["y"], name="head/MatMul"),
    ]
    weights = {"first": FIRST, "last": LAST} | more
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], opset, **weights)


def pictures(opset=17):
    nodes = [
        node("Conv", ["x", "kernel"], ["maps"], name="conv", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["maps"], ["pooled"], name="pool"),
        node("Flatten", ["pooled"], ["flat"], name="flat"),
        node("MatMul", ["flat", "head"], ["y"], name="head"),
    ]
    return model(nodes, [value("x", ["n", 2, 6, 6])], [value("y", ["n", 3])], opset, kernel=KERNEL, head=HEAD)


def taken(made, folder, add, x=X, **more):
    return Engine.from_onnx(saved(made, folder), x, "classification", selection=Selection(add=add, **more))


def listed(engine):
    return [(site.name, site.kind, site.p, site.injected, site.mask_shape) for site in engine.sites]


@pytest.mark.parametrize("place", ["dense/Relu", "hidden", "*Relu"])
@pytest.mark.parametrize("opset", [9, 11, 12, 17])
def test_elements_are_dropped_behind_the_node_that_is_named(tmp_path, place, opset):
    engine = taken(perceptron(opset=opset), tmp_path, {place: 0.25})
    assert listed(engine) == [("dense/Relu_dropout", "element", 0.25, True, (8,))]
    (masks,) = engine.masks(7, 0, 0, 20)
    assert set(np.unique(masks)) == {0.0, np.float32(1 / 0.75)}
    rows = np.repeat(X[:1], 20, axis=0)
    wanted = (np.maximum(rows @ FIRST, 0) * masks) @ LAST
    (found,) = engine.outputs(rows, [masks])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    with_nothing = engine.predict(X, 0)
    logits = np.maximum(X @ FIRST, 0) @ LAST
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(with_nothing.mean, shares, atol=1e-6)


def test_channels_are_dropped_whole(tmp_path):
    x = numbers(3, 2, 6, 6, seed=6)
    engine = taken(pictures(), tmp_path, {"conv": {"p": 0.4, "kind": "channel"}}, x)
    assert listed(engine) == [("conv_dropout", "channel", 0.4, True, (5, 1, 1))]
    plain = taken(pictures(), tmp_path, {"flat": 0.4}, x)
    (masks,) = engine.masks(3, 0, 0, 10)
    rows = np.repeat(x[:1], 10, axis=0)
    # Channels that are dropped whole before the mean over their places are its entries dropped behind it.
    (found,) = engine.outputs(rows, [masks])
    (wanted,) = plain.outputs(rows, [masks[:, :, 0, 0]])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_file_without_dropout_and_one_with_it_in_its_place_are_the_same_network(tmp_path):
    added = taken(perceptron(), tmp_path, {"dense/Relu": 0.5})
    (tmp_path / "other").mkdir()
    own = Engine.from_onnx(saved(perceptron(dropout("hidden", "taken")), tmp_path / "other"), X, "classification")
    for name, found in added.predict(X, 200, seed=11).values.items():
        np.testing.assert_array_equal(found, own.predict(X, 200, seed=11).values[name])


def test_that_it_was_added_is_found(tmp_path):
    subject = understood(perceptron(), tmp_path, X, selection=Selection(add={"hidden": 0.5}))
    assert [(finding.code, finding.site) for finding in subject.findings()[0]] == [
        ("added-dropout", "dense/Relu_dropout")
    ]


def test_it_stands_beside_dropout_of_the_graphs_own_which_the_selection_is_about(tmp_path):
    made = perceptron(dropout("hidden", "taken"))
    both = taken(made, tmp_path, {"dense/MatMul": 0.25})
    assert [(site.name, site.p, site.injected) for site in both.sites] == [
        ("dense/MatMul_dropout", 0.25, True),
        ("drop", 0.5, False),
    ]
    alone = taken(made, tmp_path, {"dense/MatMul": 0.25}, exclude=("drop",))
    assert [site.name for site in alone.sites] == ["dense/MatMul_dropout"]
    assert [site.name for site in alone.sites_off] == ["drop"]


def test_the_first_pattern_that_matches_counts(tmp_path):
    engine = taken(perceptron(), tmp_path, {"dense/Relu": 0.125, "dense/*": 0.25})
    assert {site.name: site.p for site in engine.sites} == {"dense/MatMul_dropout": 0.25, "dense/Relu_dropout": 0.125}


def test_what_no_node_is_called_is_refused_with_the_names_that_there_are(tmp_path):
    said = r"adds dropout to 'dense/Elu', which matches no node and no value of the graph; \['dense/MatMul', "
    with pytest.raises(InvalidInputError, match=said):
        taken(perceptron(), tmp_path, {"dense/Elu": 0.25})


@pytest.mark.parametrize(
    ("add", "said"),
    [
        ({"labels": 0.25}, r"labels \(ArgMax\), which gives no floating-point numbers; a node that gives floating"),
        ({"scaled": 0.25}, r"scaled \(Mul\), which gives a constant; a node that gives floating-point numbers is"),
        (
            {"dense/Relu": {"p": 0.25, "kind": "channel"}},
            r"dense/Relu \(Relu\), which gives float32 with 2 dimensions; a node that gives floating-point numbers, "
            r"\[rows, channels, \.\.\.\], is accepted",
        ),
    ],
)
def test_what_cannot_be_dropped_from_is_refused(tmp_path, add, said):
    nodes = [
        node("Mul", ["first", "two"], ["scaled_weights"], name="scaled"),
        node("MatMul", ["x", "scaled_weights"], ["product"], name="dense/MatMul"),
        node("Relu", ["product"], ["hidden"], name="dense/Relu"),
        node("MatMul", ["hidden", "last"], ["logits"], name="head/MatMul"),
        node("ArgMax", ["logits"], ["label"], name="labels", axis=1),
        node("Cast", ["label"], ["number"], to=F),
        node("Add", ["logits", "number"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x", ["n", 4])],
        [value("y", ["n", 3])],
        first=FIRST,
        last=LAST,
        two=np.float32(2.0),
    )
    with pytest.raises(UnsupportedModelError, match=said):
        Engine.from_onnx(saved(made, tmp_path), X, "classification", selection=Selection(add=add))


@pytest.mark.parametrize(
    ("place", "taken_from"),
    [("blocks[0]/Split", "u"), ("blocks[*Split", "u"), ("v", "v"), ("steps", "steps"), ("unused first", "last_step")],
)
def test_a_value_is_named_by_itself_or_by_its_node_whose_first_that_is_used_counts(tmp_path, place, taken_from):
    nodes = [
        node("Split", ["x"], ["u", "v"], name="blocks[0]/Split", axis=2, num_outputs=2),
        node("Mul", ["u", "v"], ["steps"], name="blocks0/Split"),
        node("Transpose", ["steps"], ["by_step"], perm=[1, 0, 2]),
        node("LSTM", ["by_step", "taken", "kept"], ["every_step", "last_step"], name="unused first", hidden_size=5),
        node("Squeeze", ["last_step", "zero"], ["flat"]),
        node("MatMul", ["flat", "head"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x", ["n", 4, 6])],
        [value("y", ["n", 3])],
        opset=18,
        taken=numbers(1, 20, 3, seed=1),
        kept=numbers(1, 20, 5, seed=2),
        head=numbers(5, 3, seed=3),
        zero=np.array([0]),
    )
    shapes = {"u": (4, 3), "v": (4, 3), "steps": (4, 3), "last_step": (1, 5)}
    (site,) = taken(made, tmp_path, {place: 0.25}, numbers(3, 4, 6)).sites
    assert site.mask_shape == shapes[taken_from]
    assert site.name == {"steps": "blocks0/Split_dropout", "last_step": "unused first_dropout"}.get(
        taken_from, "blocks[0]/Split_dropout"
    )


def test_channels_of_an_old_graph_are_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="a graph of version 9 of the ONNX operators; 10 or later is"):
        taken(pictures(opset=9), tmp_path, {"conv": {"p": 0.4, "kind": "channel"}}, numbers(3, 2, 6, 6))


def test_what_the_last_linear_layer_takes_is_found_through_reshapes_and_casts():
    assert before_last_linear(from_model(pictures()), "y") == "pool"
    assert before_last_linear(from_model(perceptron()), "y") == "dense/Relu"
    alone = model([node("MatMul", ["x", "w"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 3])], w=numbers(4, 3))
    assert before_last_linear(from_model(alone), "y") is None
