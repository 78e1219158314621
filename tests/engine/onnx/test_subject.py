"""What runs an ONNX model: as it is asked for, or why not."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from mcdropout.engine import Engine
from mcdropout.engine.errors import UnsupportedModelError, VerificationError
from mcdropout.engine.onnx.model import understand
from mcdropout.engine.preparation import prepare
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import Target
from mcdropout.engine.runtimes.sessions import SessionOptions
from tests.engine.onnx.common import dropout, model, node, numbers, saved, serves, understood, value

X = numbers(3, 4)


def network(end="y", **options):
    nodes = [
        node("Gemm", ["x", "v", "b"], ["h"], transB=1, name="first"),
        node("Relu", ["h"], ["r"]),
        dropout("r", "d"),
        node("Gemm", ["d", "w"], [end], transB=1, name="last"),
    ]
    weights = {"v": numbers(8, 4), "b": numbers(8), "w": numbers(3, 8, seed=2)}
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], **weights, **options)


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        (Target(), ("split", "onnx", "cpu")),
        (Target(runtime="onnx", options=SessionOptions(optimization="basic")), ("split", "onnx", "cpu")),
        (Target(runtime="sparse"), ("split", "sparse", "cpu")),
        (Target(runtime="eager"), ("whole", "eager", "cpu")),
    ],
)
def test_a_model_runs_on_what_it_is_asked_to(tmp_path, target, runs):
    program = prepare(Reading("classification"), understood(network(), tmp_path, X), target).program
    assert (program.strategy, program.runtime, program.device) == runs
    assert program.cost.prefix + program.cost.suffix == 2 * (4 * 8 + 8 * 3)
    assert program.cost.prefix == (0 if target.runtime == "eager" else 2 * 4 * 8)


def test_a_file_with_a_label_beside_its_probabilities_is_asked_which_counts(tmp_path):
    made = network(end="logits")
    made.graph.node.append(node("Softmax", ["logits"], ["y"]))
    made.graph.node.append(node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
    made.graph.output.insert(0, value("label", ["n"], TensorProto.INT64))
    subject = understood(made, tmp_path, X)
    with pytest.raises(UnsupportedModelError) as raised:
        prepare(Reading("classification"), subject, Target())
    assert str(raised.value) == (
        "for 3 rows the network returns the outputs 'label' ([3]) and 'y' ([3, 3]); classification takes one output: "
        "output that names what to take is accepted, such as output='y'"
    )


@pytest.mark.parametrize("target", [Target(runtime="torch"), Target(device="cuda")])
def test_pytorch_and_its_devices_are_not_for_onnx_models(tmp_path, target):
    with pytest.raises(UnsupportedModelError, match=r'runs on ONNX Runtime.*a provider such as "cuda"'):
        prepare(Reading("classification"), understood(network(), tmp_path, X), target)


def test_what_is_no_chain_does_not_run_on_the_native_runtime(tmp_path):
    made = network(end="z")
    made.graph.node.append(node("Tanh", ["z"], ["y"]))
    with pytest.raises(UnsupportedModelError, match="cannot run on sparse: it takes float32 linear layers"):
        prepare(Reading("classification"), understood(made, tmp_path, X), Target(runtime="sparse"))


def test_a_baseline_of_its_own_stands_in_where_noise_has_no_mask_that_keeps_everything(tmp_path):
    nodes = [
        node("RandomNormalLike", ["x"], ["n"], scale=0.1, name="noise"),
        node("Add", ["x", "n"], ["s"]),
        dropout("s", "d"),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], w=numbers(4, 3))
    prepared = prepare(Reading("classification"), understood(made, tmp_path, X), Target())
    assert prepared.baseline is not prepared.runtime
    deterministic = prepared.baseline.suffix(prepared.baseline.prefix((X,)), np.arange(3), [])[0]
    np.testing.assert_allclose(deterministic, X @ numbers(4, 3), rtol=1e-5)


class _Rows(CalibrationDataReader):
    def __init__(self):
        self._left = iter([{"x": row[None]} for row in numbers(20, 4)])

    def get_next(self):
        return next(self._left, None)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_quantized_model_serves(tmp_path, form):
    quantize_static(saved(network(opset=13), tmp_path), tmp_path / "small.onnx", _Rows(), quant_format=form)
    subject = understand(tmp_path / "small.onnx", X)
    serves(subject)
    assert [site.name for site in subject.sites] == ["drop"]


def test_a_model_that_is_quantized_by_what_else_is_in_the_batch_is_refused(tmp_path):
    quantize_dynamic(saved(network(opset=13), tmp_path), tmp_path / "small.onnx")
    with pytest.raises(VerificationError, match=r"rows beside it.*DynamicQuantizeLinear\) scales by the"):
        prepare(Reading("classification"), understand(tmp_path / "small.onnx", X), Target())


def test_a_model_that_drops_everything_is_told_so(tmp_path):
    made = network()
    made.graph.initializer.append(numpy_helper.from_array(np.float32(1.0), "ratio"))
    del made.graph.initializer[next(i for i, x in enumerate(made.graph.initializer) if x.name == "ratio")]
    with pytest.raises(VerificationError, match="p is 1 at drop, which drops everything in every pass; a p below 1"):
        prepare(Reading("classification"), understood(made, tmp_path, X), Target())


def test_a_model_that_sorts_its_rows_is_refused_though_the_examples_are_in_order(tmp_path):
    nodes = [
        node("ReduceSum", ["x", "axis"], ["sums"], keepdims=0),
        node("Shape", ["sums"], ["rows"]),
        node("TopK", ["sums", "rows"], ["in_order", "order"], largest=0),
        node("Gather", ["x", "order"], ["sorted"]),
        dropout("sorted", "d"),
        node("MatMul", ["d", "w"], ["z"]),
        node("TopK", ["order", "rows"], ["positions", "back"], largest=0),
        node("Gather", ["z", "back"], ["y"]),
    ]
    weights = {"w": numbers(4, 3), "axis": np.array([1])}
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], **weights)
    subject = understood(made, tmp_path, np.sort(X, axis=0))
    with pytest.raises(VerificationError, match="does not depend on the rows beside it"):
        prepare(Reading("classification"), subject, Target())


@pytest.mark.parametrize("padding", [0, 2])
def test_a_model_that_leaves_out_what_is_padding_in_all_rows_is_refused(tmp_path, padding):
    nodes = [
        node("Cast", ["padding"], ["token"], to=TensorProto.INT64),
        node("Equal", ["ids", "token"], ["padded"]),
        node("Not", ["padded"], ["there"]),
        node("Cast", ["there"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMax", ["numbers"], ["any"], axes=[0], keepdims=0),
        node("Cast", ["any"], ["columns"], to=TensorProto.BOOL),
        node("Compress", ["ids", "columns"], ["left"], axis=1),
        node("Gather", ["words", "left"], ["vectors"]),
        node("ReduceMean", ["vectors"], ["mean"], axes=[1], keepdims=0),
        node("Gather", ["words", "ids"], ["all"]),
        node("ReduceMax", ["all"], ["largest"], axes=[1], keepdims=0),
        dropout("largest", "dropped"),
        node("Add", ["mean", "dropped"], ["sum"]),
        node("MatMul", ["sum", "w"], ["y"]),
    ]
    constants = {"padding": np.int32(padding)}
    ids = value("ids", ["n", 6], TensorProto.INT64)
    made = model(nodes, [ids], [value("y", ["n", 2])], w=numbers(4, 2), words=numbers(20, 4), **constants)
    examples = np.random.default_rng(0).integers(3, 20, (3, 6))
    with pytest.raises(VerificationError, match="a row's answer does not depend on the rows beside it"):
        Engine.from_onnx(saved(made, tmp_path), examples, task="regression")


@pytest.mark.parametrize("limit", [2, 12, 1000])
def test_a_model_that_counts_its_rows_is_refused(tmp_path, limit):
    nodes = [
        dropout("x", "dropped"),
        node("MatMul", ["dropped", "w"], ["product"]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "first"], ["rows"]),
        node("Greater", ["rows", "limit"], ["many"]),
        node("Where", ["many", "five", "one"], ["factor"]),
        node("Mul", ["product", "factor"], ["y"]),
    ]
    constants = {"first": np.int64(0), "limit": np.int64(limit), "five": np.float32(5), "one": np.float32(1)}
    made = model(nodes, [value("x", ["rows", 4])], [value("y", ["rows", 2])], w=numbers(4, 2), **constants)
    with pytest.raises(VerificationError, match="a row's answer does not depend on the rows beside it"):
        Engine.from_onnx(saved(made, tmp_path), numbers(3, 4, seed=1), task="regression")


@pytest.mark.parametrize("mixed", [True, False])
def test_a_model_that_takes_the_mean_over_equal_rows_is_refused_and_one_that_compares_none_is_not(tmp_path, mixed):
    nodes = [
        node("Gemm", ["x", "v"], ["h"], transB=1),
        node("Unsqueeze", ["x", "second"], ["column"]),
        node("Unsqueeze", ["x", "first"], ["row"]),
        node("Equal", ["column", "row" if mixed else "column"], ["equal"]),
        node("Cast", ["equal"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMin", ["numbers"], ["same"], axes=[2], keepdims=0),
        dropout("h", "d"),
        node("MatMul" if mixed else "Mul", ["same", "d"], ["sum"]),
        node("ReduceSum", ["same", "second"], ["count"], keepdims=1),
        node("Div", ["sum", "count"], ["mean"]),
        node("MatMul", ["mean", "w"], ["y"]),
    ]
    weights = {"v": numbers(8, 12), "w": numbers(8, 3), "first": np.array([0]), "second": np.array([1])}
    path = saved(model(nodes, [value("x", ["n", 12])], [value("y", ["n", 3])], **weights), tmp_path)
    if not mixed:
        assert Engine.from_onnx(path, numbers(3, 12), task="regression").sites
        return
    with pytest.raises(VerificationError, match=r"does not depend on the rows beside it \(beside equal rows: diff"):
        Engine.from_onnx(path, numbers(3, 12), task="regression")
