"""Suffixes that the native runtime can run, whoever wrote them, and those that look like it and are not."""

import numpy as np
import pytest

from mcdropout.engine.onnx.chain import recognise
from mcdropout.engine.program import FrontierValue
from tests.engine.onnx.common import every_cut, model, node, numbers, understood, value

X = numbers(3, 4)
INPUT, OUTPUT = [value("x", ["n", 4])], [value("y", ["n", 3])]
W = {"w": numbers(5, 4), "b": numbers(5), "v": numbers(5, 3), "ratio": np.float32(0.5)}


def drop(source, output, name):
    return node("Dropout", [source, "ratio"], [output], name=name)


def linear(form, source="x", output="h", weight="w", bias="b"):
    if form == "Gemm":
        return [node("Gemm", [source, weight, bias], [output], transB=1)]
    turned = [node("Transpose", [weight], [f"{output}_t"], perm=[1, 0])]
    return [
        *turned,
        node("MatMul", [source, f"{output}_t"], [f"{output}_m"]),
        node("Add", [bias, f"{output}_m"], [output]),
    ]


def found(nodes, folder, which="split", inputs=INPUT, x=X, outputs=OUTPUT, **weights):
    subject = understood(model(nodes, inputs, outputs, **(W | weights)), folder, x)
    cut = every_cut(subject)[which]
    halves = cut.halves()
    chain = recognise(halves.suffix, halves.prefix, cut.outline, subject.sites)
    if chain is not None:
        _computes(chain, subject)
    return chain


def _computes(chain, subject):
    """A chain, as its layers say, must be the graph behind the frontier; here from the first input."""
    if chain.input is None:
        return
    masks = [np.random.default_rng(0).choice([0.0, 2.0], (3, *site.shape)).astype(np.float32) for site in subject.sites]
    y = subject.arrays[chain.input].reshape(3, -1)
    for layer in chain.layers:
        y = np.maximum(y, 0) if layer.relu else y
        y = y if layer.mask is None else y * masks[layer.mask]
        y = y @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    (wanted,) = subject.eager.suffix(subject.eager.prefix(subject.arrays), np.arange(3), masks)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["Gemm", "MatMul"])
def test_linear_layers_with_relu_and_masks_between_them_are_a_chain(tmp_path, form):
    nodes = [
        drop("x", "d0", "first"),
        *linear(form, "d0"),
        node("Relu", ["h"], ["r"]),
        drop("r", "d1", "second"),
        node("MatMul", ["d1", "v"], ["y"]),
    ]
    chain = found(nodes, tmp_path)
    assert chain.input == 0
    assert [(layer.relu, layer.mask, layer.density) for layer in chain.layers] == [(False, 0, 0.5), (True, 1, 0.25)]
    assert [(layer.weight_name, layer.transposed, layer.bias_name) for layer in chain.layers] == [
        ("w", False, "b"),
        ("v", True, None),
    ]


def test_a_prefix_that_ends_in_a_relu_makes_the_first_layer_sparser(tmp_path):
    nodes = [*linear("Gemm"), node("Relu", ["h"], ["r"]), drop("r", "d", "drop"), node("MatMul", ["d", "v"], ["y"])]
    chain = found(nodes, tmp_path)
    assert (chain.input, chain.layers[0].relu, chain.layers[0].density) == (None, False, 0.25)
    whole = found(nodes, tmp_path, "whole")
    assert (whole.input, [layer.mask for layer in whole.layers]) == (0, [None, 0])


def test_a_prefix_that_only_reshapes_an_input_is_not_run(tmp_path):
    nodes = [
        node("Flatten", ["x"], ["f"]),
        drop("f", "d", "drop"),
        *linear("Gemm", "d"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    assert found(nodes, tmp_path, inputs=[value("x", ["n", 2, 2])], x=numbers(3, 2, 2)).input == 0


def test_what_is_no_chain_is_told_from_one(tmp_path):
    end = node("MatMul", ["e", "v"], ["y"])
    begin = [*linear("Gemm"), drop("h", "d", "drop")]
    for nodes in (
        [*begin, node("Tanh", ["d"], ["e"]), end],
        [*begin, node("Relu", ["d"], ["e"]), end],  # a mask in front of a ReLU
        [*begin, node("Add", ["d", "h"], ["e"]), end],
        [*begin, drop("d", "e", "again"), end],
        [*begin, node("Mul", ["d", "ratio"], ["e"]), end],
        [*begin, node("MatMul", ["d", "v"], ["z"]), node("Softmax", ["z"], ["y"])],
    ):
        assert found(nodes, tmp_path) is None
    assert found([*begin, node("Gemm", ["d", "v"], ["y"], alpha=2.0)], tmp_path) is None
    infinite = W["v"].copy()
    infinite[0, 0] = np.inf
    inputs = model([*begin, node("MatMul", ["d", "v"], ["y"])], INPUT, OUTPUT, **(W | {"v": W["v"]}))
    subject = understood(inputs, tmp_path, X)
    cut = every_cut(subject)["split"]
    halves = cut.halves()
    tensor = next(x for x in halves.suffix.graph.initializer if x.name == "v")
    tensor.raw_data = infinite.tobytes()
    assert recognise(halves.suffix, halves.prefix, cut.outline, subject.sites) is None
    assert cut.outline.frontier == (FrontierValue((5,), True, None),)


def test_steps_of_a_sequence_are_no_chain(tmp_path):
    nodes = [drop("x", "d", "drop"), node("MatMul", ["d", "u"], ["y"])]
    chain = found(
        nodes,
        tmp_path,
        inputs=[value("x", ["n", 2, 4])],
        x=numbers(3, 2, 4),
        u=numbers(4, 3),
        outputs=[value("y", ["n", 2, 3])],
    )
    assert chain is None
