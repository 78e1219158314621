"""What in a graph is random: `Dropout` of every version, what exporters write out instead, noise, and refusals."""

import re

import numpy as np
import pytest
from onnx import helper

from mcdropout.engine import Engine
from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.reading import Reading
from mcdropout.engine.selection import Selection
from mcdropout.engine.verify import run_pairs
from tests.engine.onnx.common import BOOL, F16, I64, F, dropout, model, node, numbers, serves, understood, value

X = numbers(3, 4)
W = {"w": numbers(4, 3, seed=1)}
INPUT, OUTPUT = [value("x", ["n", 4])], [value("y", ["n", 3])]


def small(nodes, folder, x=X, opset=17, inputs=INPUT, **weights):
    return understood(
        model([*nodes, node("MatMul", ["d", "w"], ["y"])], inputs, OUTPUT, opset, **W, **weights), folder, x
    )


def is_served(subject, kind="element", p=0.5, shape=(4,), scope="row"):
    (site,) = subject.sites
    assert (site.kind, site.p, site.shape, site.scope) == (kind, p, shape, scope)
    serves(subject)
    return subject


def masked(subject, mask):
    return run_pairs(
        subject.eager, subject.arrays, [np.broadcast_to(np.float32(mask), (3, *subject.sites[0].mask_shape))]
    )


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_the_ratio_of_older_versions_is_an_attribute(tmp_path, opset):
    subject = small([node("Dropout", ["x"], ["d"], ratio=0.3, name="drop")], tmp_path, opset=opset)
    is_served(subject, p=0.3)


@pytest.mark.parametrize("opset", [7, 12, 13, 22])
def test_a_ratio_that_is_not_given_is_a_half(tmp_path, opset):
    is_served(small([node("Dropout", ["x"], ["d"], name="drop")], tmp_path, opset=opset), p=0.5)


@pytest.mark.parametrize("inputs", [["x", "r"], ["x", "r", ""], ["x", "r", "off"], ["x", "r", "on"], ["x", "", "on"]])
def test_a_dropout_is_a_site_whatever_mode_it_is_in(tmp_path, inputs):
    subject = small([node("Dropout", inputs, ["d"], name="drop")], tmp_path, r=np.float32(0.5), off=np.bool_(False))
    is_served(subject)


def test_a_ratio_may_be_worked_out_from_constants(tmp_path):
    nodes = [
        node("Constant", [], ["keep"], value_float=0.9),
        node("Sub", ["one", "keep"], ["r"]),
        node("Cast", ["x"], ["x64"], to=11),
        node("Dropout", ["x64", "r", "on"], ["d64"], name="drop"),
        node("Cast", ["d64"], ["d"], to=F),
    ]
    subject = small(nodes, tmp_path, one=np.float32(1))
    assert subject.sites[0].p == pytest.approx(0.1)
    serves(subject)


@pytest.mark.parametrize("ratio", [2e-5, 1e-9])
def test_a_ratio_may_be_as_small_as_training_makes_it(tmp_path, ratio):
    nodes = [node("Dropout", ["x", "ratio"], ["d"])]
    is_served(small(nodes, tmp_path, ratio=np.float32(ratio)), p=ratio)


def test_a_ratio_that_is_fed_is_refused(tmp_path):
    nodes = [dropout("x", "d", ratio="r"), node("MatMul", ["d", "w"], ["y"])]
    with pytest.raises(UnsupportedModelError, match=r"drop \(Dropout\) takes its ratio from the input 'r'; a constant"):
        understood(model(nodes, [*INPUT, value("r", [])], OUTPUT, **W), tmp_path, X)
    nodes.insert(0, node("ReduceMax", ["x"], ["r"], keepdims=0))
    with pytest.raises(UnsupportedModelError, match=r"drop \(Dropout\) takes its ratio from 'r', which is known only"):
        understood(model(nodes, INPUT, OUTPUT, **W), tmp_path, X)


BY_ROWS = [
    node("Shape", ["x"], ["sizes"]),
    node("Gather", ["sizes", "first"], ["rows"]),
    node("Cast", ["rows"], ["count"], to=F),
    node("Div", ["most", "count"], ["p"]),
]


def test_a_ratio_that_follows_the_number_of_rows_is_refused(tmp_path):
    nodes = [*BY_ROWS, dropout("x", "d", ratio="p")]
    with pytest.raises(UnsupportedModelError, match=r"drop \(Dropout\) takes its ratio from 'p', which is known only"):
        small(nodes, tmp_path, first=np.int64(0), most=np.float32(0.9))


def test_a_ratio_that_is_no_number_is_refused_as_what_it_is(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"drop \(Dropout\) has the ratio nan; a number from 0 to 1 is acc"):
        small([dropout("x", "d")], tmp_path, ratio=np.float32(np.nan))


def test_a_mode_that_is_fed_need_not_be_given(tmp_path):
    made = model(
        [dropout("x", "d", mode="training"), node("MatMul", ["d", "w"], ["y"])],
        [*INPUT, value("training", [], BOOL)],
        OUTPUT,
        **W,
    )
    subject = understood(made, tmp_path, X)
    assert [spec.name for spec in subject.inputs] == ["x"]
    is_served(subject)


@pytest.mark.parametrize("opset", [7, 10, 13])
def test_a_mask_that_is_used_says_what_is_kept(tmp_path, opset):
    form = {"ratio": 0.5} if opset < 12 else {}
    nodes = [
        node("Dropout", ["x"] if opset < 12 else ["x", "ratio", "on"], ["z", "mask"], name="drop", **form),
        node("Cast", ["mask"], ["kept"], to=F),
        node("Add", ["z", "kept"], ["d"]),
    ]
    subject = small(nodes, tmp_path, opset=opset)
    serves(subject)
    np.testing.assert_allclose(masked(subject, 2.0)[0], (2 * X + 1) @ W["w"], rtol=1e-5)
    np.testing.assert_allclose(masked(subject, 0.0)[0], np.zeros((3, 3)), atol=1e-6)


def test_dropout_of_ratio_0_is_off_and_one_that_reaches_no_output_too(tmp_path):
    nodes = [
        dropout("x", "a", "never", ratio="nought"),
        dropout("a", "b", "aside"),
        dropout("a", "c", "sized"),
        node("Shape", ["c"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Add", ["a", "zeros"], ["e"]),
        dropout("e", "d"),
    ]
    subject = small(nodes, tmp_path, nought=np.float32(0))
    serves(subject)
    assert [(site.name, site.reason) for site in subject.off] == [
        ("never", "its p is 0"),
        ("aside", "it does not reach the output"),
        ("sized", "it does not reach the output"),
    ]
    assert [site.name for site in subject.sites] == ["drop"]


def test_sites_are_chosen_by_name_and_given_another_p(tmp_path):
    nodes = [dropout("x", "a", "/enc/drop"), node("Relu", ["a"], ["b"]), dropout("b", "d", "/head/drop")]
    made = model([*nodes, node("MatMul", ["d", "w"], ["y"])], INPUT, OUTPUT, **W)
    subject = understood(made, tmp_path, X, selection=Selection(exclude=("/enc/*",), p={"/head/*": 0.25}))
    assert [(site.name, site.p) for site in subject.sites] == [("/head/drop", 0.25)]
    assert [(site.name, site.reason) for site in subject.off] == [("/enc/drop", "the selection leaves it out")]
    serves(subject)
    with pytest.raises(InvalidInputError, match="matches the path of no site"):
        understood(made, tmp_path, X, selection=Selection(exclude=("enc.*",)))


def random_like(output="u", source="x", **attributes):
    return node("RandomUniformLike", [source], [output], name="draw", **attributes)


KEPT = {
    "x >= p, as Keras": [node("GreaterOrEqual", ["u", "p"], ["kept"])],
    "not x < p, as tf2onnx": [node("Less", ["u", "p"], ["dropped"]), node("Not", ["dropped"], ["kept"])],
    "x > p": [node("Greater", ["u", "p"], ["kept"])],
    "x < 1 - p, as PyTorch": [node("Less", ["u", "keep"], ["kept"])],
    "1 - p > x": [node("Greater", ["keep", "u"], ["kept"])],
}
AS_FACTOR = [node("Cast", ["kept"], ["m"], to=F)]
SCALED = {
    "the mask": [node("Mul", ["m", "scale"], ["ms"]), node("Mul", ["x", "ms"], ["d"])],
    "the mask, divided": [node("Div", ["m", "keep"], ["ms"]), node("Mul", ["x", "ms"], ["d"])],
    "the data": [node("Mul", ["x", "scale"], ["xs"]), node("Mul", ["xs", "m"], ["d"])],
    "the data, divided": [node("Div", ["x", "keep"], ["xs"]), node("Mul", ["m", "xs"], ["d"])],
    "the product": [node("Mul", ["x", "m"], ["xm"]), node("Mul", ["scale", "xm"], ["d"])],
    "the product, divided": [node("Mul", ["x", "m"], ["xm"]), node("Div", ["xm", "keep"], ["d"])],
}
CONSTANTS = {"p": np.float32(0.25), "keep": np.float32(0.75), "scale": np.float32(1 / 0.75), "zero": np.float32(0)}


@pytest.mark.parametrize("compared", KEPT)
def test_written_out_dropout_is_known_by_its_threshold(tmp_path, compared):
    subject = small([random_like(), *KEPT[compared], *AS_FACTOR, *SCALED["the mask"]], tmp_path, **CONSTANTS)
    is_served(subject, p=0.25)
    assert subject.sites[0].name == "draw"
    np.testing.assert_allclose(masked(subject, 3.0)[0], 3 * X @ W["w"], rtol=1e-5)


@pytest.mark.parametrize("scaled", SCALED)
def test_written_out_dropout_is_scaled_at_the_mask_or_beside_it(tmp_path, scaled):
    subject = small([random_like(), *KEPT["x >= p, as Keras"], *AS_FACTOR, *SCALED[scaled]], tmp_path, **CONSTANTS)
    is_served(subject, p=0.25)
    np.testing.assert_allclose(masked(subject, 3.0)[0], 3 * X @ W["w"], rtol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_written_out_dropout_may_choose_between_data_and_0(tmp_path, turned):
    """TensorFlow's since 2.4: where(u >= rate, x * scale, 0)."""
    chosen = ["dropped", "zero", "xs"] if turned else ["kept", "xs", "zero"]
    compared = node("Less", ["u", "p"], ["dropped"]) if turned else node("GreaterOrEqual", ["u", "p"], ["kept"])
    nodes = [random_like(), compared, node("Mul", ["x", "scale"], ["xs"]), node("Where", chosen, ["d"])]
    subject = small(nodes, tmp_path, **CONSTANTS)
    is_served(subject, p=0.25)
    np.testing.assert_allclose(masked(subject, 3.0)[0], 3 * X @ W["w"], rtol=1e-5)


def test_written_out_dropout_of_tensorflow_1_rounds_down(tmp_path):
    """x / keep * floor(keep + u)."""
    nodes = [
        random_like(),
        node("Add", ["u", "keep"], ["sum"]),
        node("Floor", ["sum"], ["m"]),
        node("Div", ["x", "keep"], ["xs"]),
        node("Mul", ["xs", "m"], ["d"]),
    ]
    is_served(small(nodes, tmp_path, **CONSTANTS), p=0.25)


@pytest.mark.parametrize("probability", ["given", "filled"])
def test_bernoulli_numbers_are_dropout_with_the_probability_that_they_are_drawn_with(tmp_path, probability):
    nodes = {
        "given": [node("Shape", ["x"], ["s"]), node("Expand", ["keep", "s"], ["ps"])],
        "filled": [
            node("Shape", ["x"], ["s"]),
            node("ConstantOfShape", ["s"], ["ps"], value=helper.make_tensor("v", F, [1], [0.75])),
        ],
    }[probability]
    nodes = [
        *nodes,
        node("Bernoulli", ["ps"], ["b"], name="draw"),
        node("Div", ["b", "keep"], ["m"]),
        node("Mul", ["x", "m"], ["d"]),
    ]
    is_served(small(nodes, tmp_path, **CONSTANTS), p=0.25)


@pytest.mark.parametrize("expanded", [False, True])
def test_one_number_a_channel_drops_channels(tmp_path, expanded):
    nodes = [
        node("Shape", ["x"], ["shape"], end=2),
        node("Concat", ["shape", "one", "one"], ["to"], axis=0),
        node("ConstantOfShape", ["to"], ["zeros"]),
        random_like(source="zeros"),
        node("GreaterOrEqual", ["u", "p"], ["kept"]),
        node("Cast", ["kept"], ["m0"], to=F),
        node("Mul", ["m0", "scale"], ["m"]),
        *([node("Shape", ["x"], ["all"]), node("Expand", ["m", "all"], ["mx"])] if expanded else []),
        node("Mul", ["x", "mx" if expanded else "m"], ["d4"]),
        node("ReduceMean", ["d4"], ["d"], axes=[2, 3], keepdims=0),
    ]
    subject = small(
        nodes, tmp_path, numbers(3, 4, 2, 2), inputs=[value("x", ["n", 4, 2, 2])], one=np.array([1]), **CONSTANTS
    )
    is_served(subject, kind="channel", p=0.25, shape=(4, 1, 1))


def test_numbers_of_a_fixed_shape_for_a_batch_of_one_are_drawn_for_every_row(tmp_path):
    nodes = [
        node("RandomUniform", [], ["u"], shape=[1, 4], name="draw"),
        *KEPT["x >= p, as Keras"],
        *AS_FACTOR,
        *SCALED["the mask"],
        node("MatMul", ["d", "w"], ["y"]),
    ]
    made = model(nodes, [value("x", [1, 4])], [value("y", [1, 3])], **W, **CONSTANTS)
    is_served(understood(made, tmp_path, X), p=0.25)


def test_numbers_without_rows_serve_all_rows(tmp_path):
    """A noise shape with 1 for the batch, or dropout on a weight."""
    nodes = [node("RandomUniform", [], ["u"], shape=[1, 4], name="draw"), *KEPT["x >= p, as Keras"], *AS_FACTOR]
    is_served(small([*nodes, *SCALED["the mask"]], tmp_path, **CONSTANTS), "channel", 0.25, (1, 4), "pass")
    nodes = [
        random_like(source="v"),
        *KEPT["x >= p, as Keras"],
        *AS_FACTOR,
        node("Mul", ["m", "scale"], ["ms"]),
        node("Mul", ["v", "ms"], ["vd"]),
        node("MatMul", ["x", "vd"], ["d"]),
    ]
    is_served(small(nodes, tmp_path, v=numbers(4, 4), **CONSTANTS), "dropconnect", 0.25, (4, 4), "pass")


def test_one_mask_may_multiply_several_values(tmp_path):
    """As variational dropout over steps that are written out."""
    nodes = [
        random_like(),
        *KEPT["x >= p, as Keras"],
        *AS_FACTOR,
        node("Mul", ["m", "scale"], ["ms"]),
        node("Mul", ["x", "ms"], ["first"]),
        node("Tanh", ["first"], ["t"]),
        node("Mul", ["t", "ms"], ["d"]),
    ]
    is_served(small(nodes, tmp_path, **CONSTANTS), p=0.25)


def test_numbers_of_another_range_have_their_threshold_in_it(tmp_path):
    nodes = [random_like(low=-1.0, high=1.0), node("Greater", ["u", "at"], ["kept"]), *AS_FACTOR, *SCALED["the mask"]]
    is_served(small(nodes, tmp_path, at=np.float32(-0.5), **CONSTANTS), p=0.25)


def test_written_out_dropout_of_half_precision(tmp_path):
    half = {name: np.float16(x) for name, x in CONSTANTS.items()}
    nodes = [
        node("Cast", ["x"], ["h"], to=F16),
        random_like(source="h"),
        *KEPT["x >= p, as Keras"],
        node("Cast", ["kept"], ["m"], to=F16),
        node("Mul", ["m", "scale"], ["ms"]),
        node("Mul", ["h", "ms"], ["hd"]),
        node("Cast", ["hd"], ["d"], to=F),
    ]
    subject = small(nodes, tmp_path, **half)
    is_served(subject, p=0.25)
    assert subject.tolerance == 2e-2


def test_masks_that_are_not_scaled_are_refused(tmp_path):
    nodes = [random_like(), *KEPT["x >= p, as Keras"], *AS_FACTOR, node("Mul", ["x", "m"], ["d"])]
    with pytest.raises(
        UnsupportedModelError,
        match=r"draw \(RandomUniformLike\) makes dropout with p = 0.25 whose kept units .*;.*1 / \(1 - p\) = 1.33333",
    ):
        small(nodes, tmp_path, **CONSTANTS)


def test_numbers_of_an_unknown_use_are_refused(tmp_path):
    for nodes, found in (
        ([random_like(), node("Add", ["x", "u"], ["d"])], "no Mul takes them"),
        ([random_like(), node("Mul", ["x", "u"], ["d"])], "takes more than two values"),
        ([random_like(), node("Sub", ["x", "u"], ["d"])], "the Sub that takes 'u'"),
        (
            [
                random_like(),
                node("CumSum", ["u", "axis"], ["s"]),
                node("GreaterOrEqual", ["s", "p"], ["kept"]),
                *AS_FACTOR,
                *SCALED["the mask"],
            ],
            "units of .* differ for the same number",
        ),
        (
            [random_like(), node("Bernoulli", ["u"], ["b"], name="again"), node("Mul", ["x", "b"], ["d"])],
            r"draw \(RandomUniformLike\)",
        ),
    ):
        with pytest.raises(UnsupportedModelError, match=found):
            small(nodes, tmp_path, axis=np.array(1), **CONSTANTS)


@pytest.mark.parametrize("scaled", ["the mask, divided", "the product"])
def test_written_out_dropout_that_follows_the_number_of_rows_is_refused(tmp_path, scaled):
    own = {name: x for name, x in CONSTANTS.items() if name != "p"}
    nodes = [*BY_ROWS, random_like(), *KEPT["x >= p, as Keras"], *AS_FACTOR, *SCALED[scaled]]
    with pytest.raises(UnsupportedModelError, match="'p', beside them, follows the number of rows"):
        small(nodes, tmp_path, first=np.int64(0), most=np.float32(0.5), **own)


COMPLEMENTS = {
    "not what is below": [node("Less", ["u", "half"], ["a"]), node("Not", ["a"], ["b"])],
    "two comparisons": [node("Less", ["u", "half"], ["a"]), node("GreaterOrEqual", ["u", "half"], ["b"])],
}


@pytest.mark.parametrize("made", COMPLEMENTS)
def test_a_mask_and_what_it_leaves_out_are_no_two_masks_that_are_alike(tmp_path, made):
    nodes = [
        random_like(),
        *COMPLEMENTS[made],
        *(node("Cast", [name], [f"{name}f"], to=F) for name in "ab"),
        *(node("Mul", ["x", f"{name}f"], [f"{name}x"]) for name in "ab"),
        *(node("Mul", [f"{name}x", "two"], [f"{name}2"]) for name in "ab"),
        node("Add", ["a2", "b2"], ["d"]),
    ]
    with pytest.raises(UnsupportedModelError, match="'bf' keeps what 'af' drops"):
        small(nodes, tmp_path, half=np.float32(0.5), two=np.float32(2.0))


def test_bernoulli_numbers_and_one_less_them_are_no_two_masks_that_are_alike(tmp_path):
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Expand", ["half", "sizes"], ["chances"]),
        node("Bernoulli", ["chances"], ["a"], name="draw"),
        node("Sub", ["one", "a"], ["b"]),
        *(node("Mul", ["x", name], [f"{name}x"]) for name in "ab"),
        *(node("Mul", [f"{name}x", "two"], [f"{name}2"]) for name in "ab"),
        node("Add", ["a2", "b2"], ["d"]),
    ]
    with pytest.raises(UnsupportedModelError, match=r"keeps what .* drops"):
        small(nodes, tmp_path, half=np.float32(0.5), one=np.float32(1.0), two=np.float32(2.0))


@pytest.mark.parametrize("probability", [1.5, -0.25, np.nan])
def test_bernoulli_numbers_of_no_probability_are_refused(tmp_path, probability):
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Expand", ["chance", "sizes"], ["chances"]),
        node("Bernoulli", ["chances"], ["m"], name="draw"),
        *SCALED["the mask"],
    ]
    with pytest.raises(UnsupportedModelError, match=r"their probability is .*, which is none"):
        small(nodes, tmp_path, chance=np.float32(probability), **CONSTANTS)


def test_categories_are_refused(tmp_path):
    nodes = [
        node("Multinomial", ["x"], ["c"], sample_size=4, name="draw"),
        node("Cast", ["c"], ["m"], to=F),
        node("Mul", ["x", "m"], ["d"]),
    ]
    with pytest.raises(UnsupportedModelError, match=r"draw \(Multinomial\) draws categories"):
        small(nodes, tmp_path)


def test_normal_numbers_are_noise_whose_mean_is_nothing(tmp_path):
    """Keras' GaussianNoise: x + n * deviation; its GaussianDropout: x * N(1, deviation)."""
    for nodes, baseline in (
        ([node("RandomNormalLike", ["x"], ["n"], scale=0.3, name="draw"), node("Add", ["x", "n"], ["d"])], X),
        ([node("RandomNormalLike", ["x"], ["n"], mean=1.0, scale=0.3, name="draw"), node("Mul", ["x", "n"], ["d"])], X),
    ):
        subject = small(nodes, tmp_path)
        is_served(subject, kind="normal", p=None)
        np.testing.assert_allclose(subject.eval_outputs()[0], baseline @ W["w"], rtol=1e-5)
        one = masked(subject, 1.0)[0]
        wanted = X + 0.3 if nodes[1].op_type == "Add" else X * 1.3
        np.testing.assert_allclose(one, wanted @ W["w"], rtol=1e-5)


def test_alpha_dropout_as_pytorch_writes_it_out_has_a_factor_and_a_summand(tmp_path):
    p, saturation = 0.2, 1.7580993408473766
    a = ((saturation**2 * p + 1) * (1 - p)) ** -0.5
    nodes = [
        random_like(),
        node("Less", ["u", "keep"], ["kept"]),
        node("Cast", ["kept"], ["b"], to=F),
        node("Add", ["b", "minus"], ["b1"]),
        node("Mul", ["b1", "alpha_a"], ["b2"]),
        node("Add", ["b2", "shift"], ["summand"]),
        node("Mul", ["b", "a"], ["factor"]),
        node("Mul", ["x", "factor"], ["xf"]),
        node("Add", ["xf", "summand"], ["d"]),
    ]
    constants = {"keep": 1 - p, "minus": -1, "alpha_a": saturation * a, "shift": saturation * a * p, "a": a}
    subject = small(nodes, tmp_path, **{name: np.float32(x) for name, x in constants.items()})
    is_served(subject, kind="alpha", p=0.2)


def test_loops_with_dropout_are_refused_unless_it_is_excluded(tmp_path):
    body = helper.make_graph(
        [node("Identity", ["go"], ["on_"]), dropout("state", "next", "inside")],
        "body",
        [value("i", [], I64), value("go", [], BOOL), value("state", ["n", 4])],
        [value("on_", [], BOOL), value("next", ["n", 4])],
    )
    nodes = [node("Loop", ["three", "yes", "x"], ["l"], body=body, name="steps"), dropout("l", "d")]
    made = model([*nodes, node("MatMul", ["d", "w"], ["y"])], INPUT, OUTPUT, three=np.array(3), yes=np.bool_(True), **W)
    with pytest.raises(UnsupportedModelError, match=r"inside \(Dropout\) is within the Loop steps.*excludes it"):
        understood(made, tmp_path, X)
    serves(understood(made, tmp_path, X, selection=Selection(exclude=("inside",))))


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_batch_normalization_in_training_form_is_brought_into_inference(tmp_path, opset):
    form = {"training_mode": 1} if opset >= 14 else {}
    outputs = ["h", "mean", "var"] if opset >= 14 else ["h", "mean", "var", "", ""] if opset < 14 else []
    outputs = outputs if opset >= 14 else ["h", "mean", "var", "m2", "v2"]
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], outputs, name="norm", **form)]
    nodes.append(node("Dropout", ["h"], ["d"], name="drop", **({"ratio": 0.5} if opset < 12 else {})))
    statistics = {"s": numbers(4), "b": numbers(4, seed=2), "m": numbers(4, seed=3), "v": np.abs(numbers(4, seed=4))}
    subject = small(nodes, tmp_path, opset=opset, **statistics)
    serves(subject)
    wanted = (X - statistics["m"]) / np.sqrt(statistics["v"] + 1e-5) * statistics["s"] + statistics["b"]
    np.testing.assert_allclose(subject.eval_outputs()[0], wanted @ W["w"], rtol=1e-4)
    assert any("norm" in check.detail for check in subject.own_checks())


def test_statistics_of_a_batch_that_are_used_are_refused(tmp_path):
    nodes = [
        node("BatchNormalization", ["x", "s", "s", "s", "s"], ["h", "mean", "var"], name="norm", training_mode=1),
        node("Add", ["h", "mean"], ["e"]),
        dropout("e", "d"),
    ]
    with pytest.raises(UnsupportedModelError, match=re.escape("norm (BatchNormalization in training form)")):
        small(nodes, tmp_path, s=np.ones(4, np.float32))


def test_a_model_without_dropout_says_how_to_export_one_that_has_it(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match=r"no dropout.*PyTorch.*TrainingMode.PRESERVE.*Keras.*training=True.*scikit-learn"
    ):
        small([node("Relu", ["x"], ["d"])], tmp_path)


def test_masks_of_a_seed_do_not_depend_on_how_dropout_is_written(tmp_path):
    written = small(
        [random_like(), *KEPT["x >= p, as Keras"], *AS_FACTOR, *SCALED["the product"]], tmp_path, **CONSTANTS
    )
    told = small([dropout("x", "d", ratio="p")], tmp_path, p=np.float32(0.25))
    outputs = [
        run_pairs(subject.eager, subject.arrays, MaskSource(subject.sites).draw([7] * 3, range(3), 0, 1))[0]
        for subject in (written, told)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_written_out_dropout_takes_another_p(tmp_path):
    nodes = [
        random_like(),
        *KEPT["x >= p, as Keras"],
        *AS_FACTOR,
        *SCALED["the product"],
        node("MatMul", ["d", "w"], ["y"]),
    ]
    subject = understood(model(nodes, INPUT, OUTPUT, **W, **CONSTANTS), tmp_path, X, selection=Selection(p={"*": 0.5}))
    is_served(subject, p=0.5)
    np.testing.assert_allclose(masked(subject, 2.0)[0], 2 * X @ W["w"], rtol=1e-5)


def test_masks_may_be_drawn_in_another_order_of_dimensions(tmp_path):
    """As converters turn the channels of TensorFlow's images to the front behind the draw."""
    nodes = [
        node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        random_like(source="last"),
        *KEPT["x >= p, as Keras"],
        *AS_FACTOR,
        node("Mul", ["m", "scale"], ["ms"]),
        node("Transpose", ["ms"], ["turned"], perm=[0, 3, 1, 2]),
        node("Mul", ["x", "turned"], ["d4"]),
        node("ReduceMean", ["d4"], ["d"], axes=[2, 3], keepdims=0),
    ]
    subject = small(nodes, tmp_path, numbers(3, 4, 2, 3), inputs=[value("x", ["n", 4, 2, 3])], **CONSTANTS)
    is_served(subject, p=0.25, shape=(2, 3, 4))


@pytest.mark.parametrize("behind", [[], [node("Flatten", ["p"], ["y"])]])
def test_probabilities_are_given_as_logits_that_make_them(tmp_path, behind):
    end = "p" if behind else "y"
    nodes = [
        dropout("x", "d"),
        node("MatMul", ["d", "w"], ["z"]),
        node("Softmax", ["z"], [end], axis=1, name="last"),
        *behind,
    ]
    made = model(nodes, INPUT, OUTPUT, **W)
    as_they_are = understood(made, tmp_path, X)
    logits = understood(made, tmp_path, X, reading=Reading("classification"))
    assert as_they_are.ends == logits.ends == ("last",)
    serves(as_they_are)
    serves(logits)
    probabilities, logarithms = as_they_are.eval_outputs()[0], logits.eval_outputs()[0]
    np.testing.assert_allclose(np.exp(logarithms), probabilities, rtol=1e-5)


@pytest.mark.parametrize("behind", [[], [node("Flatten", ["p"], ["y"], name="flat")]])
@pytest.mark.parametrize(("task", "end"), [("multilabel", "Sigmoid"), ("classification", "Softmax")])
def test_the_logits_below_an_end_say_what_the_module_does(tmp_path, behind, task, end):
    last = "p" if behind else "y"
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["z"]), node(end, ["z"], [last], name="last"), *behind]
    made = model(nodes, INPUT, OUTPUT, **W)
    engine = Engine.prepare(understood(made, tmp_path, X, reading=Reading(task)), Reading(task))
    plain = Reading(task, "probabilities", 1)
    as_told = Engine.prepare(understood(made, tmp_path, X, reading=plain), plain)
    assert engine.reading.form in ("logits", "log_probabilities")
    for name, values in as_told.predict(X, 50, 1).values.items():
        np.testing.assert_allclose(engine.predict(X, 50, 1).values[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_a_sigmoid_at_the_end_is_of_no_classes(tmp_path):
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["z"]), node("Sigmoid", ["z"], ["y"], name="last")]
    subject = understood(model(nodes, INPUT, OUTPUT, **W), tmp_path, X, reading=Reading("classification"))
    with pytest.raises(UnsupportedModelError, match="a sigmoid makes them"):
        Engine.prepare(subject, Reading("classification"))


@pytest.mark.parametrize(
    "end",
    [
        [node("Sigmoid", ["z"], ["p"]), node("Log", ["p"], ["y"], name="last")],
        [node("Neg", ["z"], ["n"]), node("Softplus", ["n"], ["s"]), node("Neg", ["s"], ["y"], name="last")],
    ],
    ids=["the logarithm of a sigmoid", "a softplus"],
)
def test_a_logarithm_of_a_sigmoid_at_the_end_is_that_of_a_probability(tmp_path, end):
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["z"])]
    subject = understood(model([*nodes, *end], INPUT, OUTPUT, **W), tmp_path, X, reading=Reading("multilabel"))
    engine = Engine.prepare(subject, Reading("multilabel"))
    assert engine.reading.form == "log_probabilities"
    np.testing.assert_allclose(engine.predict(X, 0).mean, np.exp(subject.eval_outputs()[0]), atol=1e-6)


@pytest.mark.parametrize(
    ("end", "weights", "probabilities"),
    [
        (
            [node("Sigmoid", ["z"], ["p"]), node("MatMul", ["p", "shares"], ["y"])],
            {"shares": np.full((3, 3), 0.2)},
            lambda y: y,
        ),
        (
            [node("Sigmoid", ["z"], ["p"]), node("Gemm", ["p", "shares", "bias"], ["y"])],
            {"shares": np.full((3, 3), 0.3), "bias": np.zeros(3)},
            lambda y: y,
        ),
        ([node("Softplus", ["z"], ["s"]), node("Sub", ["z", "s"], ["y"])], {}, np.exp),
        (
            [
                *(node("Sub", ["z", "one"], ["over"]), node("Relu", ["over"], ["more"]), node("Neg", ["z"], ["n"])),
                *(
                    node("Relu", ["n"], ["less"]),
                    node("Sub", ["z", "more"], ["cut"]),
                    node("Add", ["cut", "less"], ["y"]),
                ),
            ],
            {"one": np.ones(1)},
            lambda y: y,
        ),
    ],
    ids=["shares of a mixture", "a layer of shares", "a log-sigmoid by hand", "a clamp by hand"],
)
def test_what_is_no_logit_is_read_as_what_it_is_or_asked_for(tmp_path, end, weights, probabilities):
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["z"])]
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    reading = Reading("multilabel")
    subject = understood(model([*nodes, *end], INPUT, OUTPUT, **W, **weights), tmp_path, X, reading=reading)
    if "Softplus" in {each.op_type for each in end} or weights.keys() & {"shares"}:
        with pytest.raises(UnsupportedModelError, match="which are hardly logits"):
            Engine.prepare(subject, reading)
    else:
        engine = Engine.prepare(subject, reading)
        np.testing.assert_allclose(engine.predict(X, 0).mean, probabilities(subject.eval_outputs()[0]), atol=1e-6)


def test_a_layer_at_the_end_makes_logits_whatever_these_are_for_the_examples(tmp_path):
    nodes = [dropout("x", "d"), node("MatMul", ["d", "w"], ["z"]), node("Add", ["z", "half"], ["y"])]
    weights = {"w": W["w"] * 1e-3, "half": np.full(3, 0.5, np.float32)}
    subject = understood(model(nodes, INPUT, OUTPUT, **weights), tmp_path, X, reading=Reading("multilabel"))
    assert subject.evidence.linear
    assert Engine.prepare(subject, Reading("multilabel")).reading.form == "logits"
