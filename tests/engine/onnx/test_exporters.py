"""Models as others' tools write them: which of them serve, with which sites, and what the others are told.

What PyTorch writes is written here, by both of its exporters. TensorFlow is not installed: graphs of tf2onnx are built
in the shapes that it is known to write, which is all that the tests of those show.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case import node as cases
from onnx.backend.test.case.node import dropout as _dropout_cases  # noqa: F401  puts its cases among those of `cases`
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.onnx.model import understand
from mcdropout.engine.preparation import prepare
from mcdropout.engine.pytorch.module import understand as understand_module
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import Target
from mcdropout.engine.verify import run_pairs
from mcdropout.layers import GaussianDropout, StochasticDepth
from tests.engine.networks import Custom, mlp
from tests.engine.onnx.common import F, model, node, numbers, serves, understood, value

_NO_DROPOUT = "no dropout to switch on; exporters leave it out"


def convolutions():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout2d(0.25),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 3),
    )
    with torch.no_grad():
        network.train()(3 * torch.rand(64, 1, 6, 6))
    return network


def normalized():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        network.train()(3 * torch.rand(64, 4))
    return network


def recurrent():
    torch.manual_seed(0)
    parts = {"lstm": nn.LSTM(4, 6, 2, dropout=0.3, batch_first=True), "last": nn.Linear(6, 3)}
    return Custom(lambda self, x: self.last(self.lstm(x)[0][:, -1]), **parts)


def transformer():
    torch.manual_seed(0)
    parts = {"layer": nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True), "last": nn.Linear(8, 3)}
    return Custom(lambda self, x: self.last(self.layer(x).mean(1)), **parts)


def layered(*layers):
    return lambda: nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 3))


NETWORKS = {
    "mlp": (mlp, (4,)),
    "convolutions": (convolutions, (1, 6, 6)),
    "normalized": (normalized, (4,)),
    "recurrent": (recurrent, (5, 4)),
    "transformer": (transformer, (5, 8)),
    "alpha": (layered(nn.SELU(), nn.AlphaDropout(0.2)), (4,)),
    "stochastic depth": (layered(StochasticDepth(0.3)), (4,)),
    "noise": (layered(GaussianDropout(0.3)), (4,)),
}
DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


class ExportError(Exception):
    """An exporter's own refusal."""


def exported(name, folder, *, dynamo, how):
    """The file that an exporter writes of a network, after it was put into a mode."""
    build, shape = NETWORKS[name]
    network, x = build(), torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    for part in network.modules():
        part.training = how == "train" or (how == "dropout" and isinstance(part, DROPOUTS))
    path = folder / "model.onnx"
    form = (
        {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), "verbose": False}
        if dynamo
        else {
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
            "dynamic_axes": {"x": {0: "rows"}},
            "input_names": ["x"],
        }
    )
    if dynamo and isinstance(network, Custom):
        form["dynamic_shapes"] = (form["dynamic_shapes"],)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(network, (x,), path, dynamo=dynamo, **form)
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(str(error)) from error
    return path, network.eval(), x


# What each exporter makes of each network in each mode: the kinds of its sites, in order, or words of the refusal.
EXPORTERS = [
    ("mlp", True, "eval", _NO_DROPOUT),
    ("mlp", True, "dropout", ["element"]),
    ("mlp", False, "eval", _NO_DROPOUT),
    ("mlp", False, "dropout", ["element"]),
    ("mlp", False, "train", ["element"]),
    ("convolutions", True, "dropout", ["channel", "element"]),
    ("convolutions", True, "train", ["channel", "element"]),
    ("convolutions", False, "eval", _NO_DROPOUT),
    ("convolutions", False, "dropout", ExportError),  # it cannot write dropout of channels
    ("normalized", True, "train", ["element"]),
    ("normalized", False, "train", ["element"]),
    ("recurrent", True, "train", ["element"]),
    ("recurrent", False, "train", ExportError),  # nor dropout between recurrent layers
    ("recurrent", False, "eval", _NO_DROPOUT),
    ("transformer", False, "train", ["attention", "element", "element", "element"]),
    ("transformer", True, "train", ["element", "element", "element"]),  # it loses that of attention
    ("alpha", True, "train", ["alpha"]),
    ("alpha", False, "train", ExportError),
    ("stochastic depth", True, "train", ["element"]),
    ("stochastic depth", False, "train", ["element"]),
    ("noise", True, "train", ["normal"]),
    ("noise", False, "train", ["normal"]),
]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "dynamo", "how", "outcome"),
    EXPORTERS,
    ids=[f"{name}-{'dynamo' if dynamo else 'torchscript'}-{how}" for name, dynamo, how, _ in EXPORTERS],
)
def test_what_pytorch_exports_serves_as_the_network_itself_or_says_why_not(tmp_path, name, dynamo, how, outcome):
    if outcome is ExportError:
        with pytest.raises(ExportError, match="training mode"):
            exported(name, tmp_path, dynamo=dynamo, how=how)
        return
    path, network, x = exported(name, tmp_path, dynamo=dynamo, how=how)
    if isinstance(outcome, str):
        with pytest.raises(UnsupportedModelError, match=outcome):
            understand(path, x)
        return
    subject = understand(path, x)
    assert [site.kind for site in subject.sites] == outcome
    serves(subject)
    with torch.no_grad():
        np.testing.assert_allclose(subject.eval_outputs()[0], network(x), rtol=1e-4, atol=1e-5)
    module = understand_module(network, x)
    if len(module.sites) == len(subject.sites):  # the same network: the same masks for the same seed, the same answers
        _are_the_same(module, subject)


def _are_the_same(module, subject):
    masks = [MaskSource(one.sites).draw([11] * 3, range(3), 4, 1) for one in (module, subject)]
    for one, other in zip(*masks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    outputs = [
        run_pairs(one.eager, module.arrays, drawn)[0] for one, drawn in zip((module, subject), masks, strict=True)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def keras(*, where, static):
    """tf2onnx's of Dense(8, relu), Dropout(0.25)(training=True), Dense(3): static with a batch of 1, or with none."""
    if static:
        draw = [
            node(
                "RandomUniform",
                [],
                ["model/dropout/random_uniform:0"],
                shape=[1, 8],
                name="model/dropout/random_uniform",
            )
        ]
    else:
        draw = [
            node("Shape", ["relu"], ["shape"]),
            node("Cast", ["shape"], ["shape32"], to=6),
            node("Cast", ["shape32"], ["shape64"], to=7),
            node("ConstantOfShape", ["shape64"], ["like"]),
            node(
                "RandomUniformLike",
                ["like"],
                ["model/dropout/random_uniform:0"],
                dtype=F,
                name="model/dropout/random_uniform",
            ),
        ]
    compared = [
        node("Less", ["model/dropout/random_uniform:0", "rate"], ["less"]),
        node("Not", ["less"], ["kept"]),
    ]
    scaled = node("Mul", ["relu", "scale"], ["scaled"])
    dropped = (
        [node("Where", ["kept", "scaled", "zero"], ["dropped"])]
        if where
        else [node("Cast", ["kept"], ["mask"], to=F), node("Mul", ["scaled", "mask"], ["dropped"])]
    )
    nodes = [
        node("MatMul", ["x", "kernel"], ["h"]),
        node("Add", ["h", "bias"], ["hb"]),
        node("Relu", ["hb"], ["relu"]),
        *draw,
        *compared,
        scaled,
        *dropped,
        node("MatMul", ["dropped", "kernel_1"], ["y"]),
    ]
    rows = 1 if static else "unk__1"
    constants = {"rate": 0.25, "scale": 1 / 0.75, **({"zero": 0.0} if where else {})}
    return model(
        nodes,
        [value("x", [rows, 4])],
        [value("y", [rows, 3])],
        opset=15,
        kernel=numbers(4, 8),
        bias=numbers(8),
        kernel_1=numbers(8, 3),
        **{name: np.float32(x) for name, x in constants.items()},
    )


@pytest.mark.parametrize("where", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_dropout_of_keras_called_in_training_is_known_in_what_tf2onnx_makes_of_it(tmp_path, where, static):
    subject = understood(keras(where=where, static=static), tmp_path, numbers(3, 4))
    (site,) = subject.sites
    assert (site.name, site.kind, site.p, site.shape, site.scope) == (
        "model/dropout/random_uniform",
        "element",
        0.25,
        (8,),
        "row",
    )
    assert serves(subject)["split"].outline.prefix_operations == 4


def test_a_perceptron_of_scikit_learn_is_told_that_it_has_none(tmp_path):
    """The form of skl2onnx: MatMul, Add, Relu, and ArgMax and ZipMap-free probabilities behind a Softmax."""
    nodes = [
        node("MatMul", ["X", "coefficient"], ["mul_result"]),
        node("Add", ["mul_result", "intercepts"], ["add_result"]),
        node("Relu", ["add_result"], ["next_activations"]),
        node("MatMul", ["next_activations", "coefficient1"], ["mul_result1"]),
        node("Softmax", ["mul_result1"], ["probabilities"]),
        node("ArgMax", ["probabilities"], ["label"], axis=1),
    ]
    made = model(
        nodes,
        [value("X", ["n", 4])],
        [value("label", ["n", 1], 7), value("probabilities", ["n", 3])],
        coefficient=numbers(4, 8),
        intercepts=numbers(8),
        coefficient1=numbers(8, 3),
    )
    with pytest.raises(UnsupportedModelError, match="without any, such as a multi-layer perceptron of scikit-learn"):
        understood(made, tmp_path, numbers(3, 4))


def classifier_of_scikit_learn(dropout, versions):
    """The form of skl2onnx with zipmap=False: labels by an operator of ai.onnx.ml, and probabilities."""
    nodes = [
        node("Cast", ["X"], ["cast_input"], to=1),
        node("MatMul", ["cast_input", "coefficient"], ["mul_result"]),
        node("Relu", ["mul_result"], ["next_activations"]),
        *([node("Dropout", ["next_activations", "ratio", "on"], ["dropped"])] if dropout else []),
        node("MatMul", ["dropped" if dropout else "next_activations", "coefficient1"], ["mul_result1"]),
        node("Softmax", ["mul_result1"], ["probabilities"], axis=1),
        node("ArgMax", ["probabilities"], ["argmax_output"], axis=1),
        node("ArrayFeatureExtractor", ["classes", "argmax_output"], ["extracted"], domain="ai.onnx.ml"),
        node("Cast", ["extracted"], ["cast2_result"], to=6),
        node("Reshape", ["cast2_result", "shape_tensor"], ["reshaped_result"]),
        node("Cast", ["reshaped_result"], ["label"], to=7),
    ]
    made = model(
        nodes,
        [value("X", ["n", 4])],
        [value("label", ["n"], 7), value("probabilities", ["n", 3])],
        opset=15,
        coefficient=numbers(4, 8),
        coefficient1=numbers(8, 3),
        classes=np.arange(3, dtype=np.int32),
        shape_tensor=np.array([-1], np.int64),
        **({"ratio": np.float32(0.5), "on": np.array(True)} if dropout else {}),
    )
    del made.opset_import[:]
    made.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    return made


@pytest.mark.parametrize("versions", [{"": 15, "ai.onnx.ml": 1}, {"": 15}, {"ai.onnx": 15}, {"ai.onnx.ml": 3}])
def test_a_classifier_of_scikit_learn_is_refused_for_want_of_dropout_and_not_as_invalid(tmp_path, versions):
    made = classifier_of_scikit_learn(dropout=False, versions=versions)
    onnxruntime.InferenceSession(made.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="the graph has no dropout to switch on"):
        understood(made, tmp_path, numbers(3, 4))


def test_one_with_dropout_serves_its_probabilities_though_it_leaves_out_a_version(tmp_path):
    made = classifier_of_scikit_learn(dropout=True, versions={"": 15})
    onnx.save(made, tmp_path / "model.onnx")
    engine = Engine.from_onnx(tmp_path / "model.onnx", numbers(3, 4), output="probabilities")
    plain = onnxruntime.InferenceSession(classifier_of_scikit_learn(False, {"": 15}).SerializeToString())
    wanted = plain.run(["probabilities"], {"X": numbers(3, 4)})[0]
    np.testing.assert_allclose(engine.predict(numbers(3, 4), 0).mean, wanted, atol=1e-6)
    assert engine.predict(numbers(3, 4), 30, 1).variance.min() > 0.0


def test_a_linear_classifier_of_scikit_learn_is_refused_for_want_of_dropout(tmp_path):
    nodes = [
        node(
            "LinearClassifier",
            ["X"],
            ["label", "probability_tensor"],
            domain="ai.onnx.ml",
            classlabels_ints=[0, 1, 2],
            coefficients=[0.1] * 12,
            intercepts=[0.0] * 3,
            post_transform="SOFTMAX",
        ),
        node("Normalizer", ["probability_tensor"], ["probabilities"], domain="ai.onnx.ml", norm="L1"),
    ]
    made = model(nodes, [value("X", ["n", 4])], [value("label", ["n"], 7), value("probabilities", ["n", 3])], opset=15)
    with pytest.raises(UnsupportedModelError, match="the graph has no dropout to switch on"):
        understood(made, tmp_path, numbers(3, 4))


@pytest.mark.long
@pytest.mark.parametrize(("name", "sites"), [("squeezenet", 1), ("inception_v1", 1)])
def test_networks_of_caffe2_with_their_batch_of_one_serve(tmp_path, name, sites):
    """ONNX's own light models, whose weights are all the same, with weights that are not: version 9, format 3."""
    made = onnx.load(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    shapes = {x.name: numpy_helper.to_array(x).tolist() for x in made.graph.initializer}
    made.ir_version = 4
    for constant in [x for x in made.graph.node if x.op_type == "ConstantOfShape"]:
        shape = shapes[constant.input[0]]
        weight = numbers(*shape, seed=len(made.graph.initializer)) * (2 / np.prod(shape[1:])) ** 0.5
        made.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), constant.output[0]))
        made.graph.node.remove(constant)
    given = next(x for x in made.graph.input if x.name not in shapes)
    shape = [x.dim_value for x in given.type.tensor_type.shape.dim]
    subject = understood(made, tmp_path, numbers(2, *shape[1:]), reading=Reading("classification"))
    assert len(subject.sites) == sites
    assert len(subject.ends) == 1
    prepared = prepare(Reading("classification"), subject, Target())
    assert (prepared.program.strategy, prepared.program.reason) == ("split", None)
    assert prepared.program.cost.share_once > 0.7


# ONNX's own tests of Dropout: what they give when they are served by what they call x.
BACKEND = {
    "test_dropout_default": 0.5,
    "test_dropout_default_mask": 0.5,
    "test_dropout_default_old": 0.5,
    "test_dropout_random_old": 0.2,
    **dict.fromkeys(
        (
            "test_dropout_default_ratio",
            "test_dropout_default_mask_ratio",
            "test_training_dropout",
            "test_training_dropout_mask",
            "test_training_dropout_default",
            "test_training_dropout_default_mask",
            "test_training_dropout_zero_ratio",
            "test_training_dropout_zero_ratio_mask",
        ),
        "(Dropout) takes its ratio from the input 'r'",
    ),
}


@pytest.mark.parametrize("case", [x for x in cases._NodeTestCases if x.name in BACKEND], ids=lambda x: x.name)
def test_the_cases_of_dropout_that_onnx_itself_has(tmp_path, case):
    outcome, x = BACKEND[case.name], case.data_sets[0][0][0]
    if isinstance(outcome, str):
        with pytest.raises(UnsupportedModelError, match=re.escape(outcome)):
            understood(case.model, tmp_path, x)
        return
    subject = understood(case.model, tmp_path, x, output="y")
    serves(subject)
    assert [site.p for site in subject.sites] == [outcome]
    if len(x) == 3:  # as many as examples are made of
        np.testing.assert_array_equal(subject.eval_outputs()[0], case.data_sets[0][1][0])


def test_all_of_those_cases_are_known():
    assert {x.name for x in cases._NodeTestCases if "dropout" in x.name} == set(BACKEND)


def test_a_weight_that_an_exporter_has_dropped_once_and_for_all_cannot_be_told(tmp_path):
    """torch.onnx.export folds dropout of a parameter into the numbers of one draw: the file holds no dropout."""
    torch.manual_seed(0)
    drop_connect = Custom(
        lambda self, x: nn.functional.linear(x, nn.functional.dropout(self.linear.weight, 0.5, self.training)),
        linear=nn.Linear(8, 3),
    ).train()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            drop_connect,
            (torch.rand(3, 8),),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},),),
        )
    program.save(path)
    weights = [numpy_helper.to_array(x) for x in program.model_proto.graph.initializer]
    assert any((weight == 0).mean() > 0.2 for weight in weights)
    with pytest.raises(UnsupportedModelError, match=_NO_DROPOUT):
        understand(path, np.ones((3, 8), np.float32))
