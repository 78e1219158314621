"""Files that are not what they say: each is refused in a sentence, and nothing outside the folder is read."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.onnx.model import understand
from mcdropout.engine.onnx.read.file import read_model
from tests.engine.onnx.common import I64, F, dropout, model, node, numbers, saved, serves, understood, value

X = numbers(3, 4)
W = {"w": numbers(4, 3, seed=1)}
INPUT, OUTPUT = [value("x", ["n", 4])], [value("y", ["n", 3])]


def good(**options):
    return model([dropout("x", "d"), node("MatMul", ["d", "w"], ["y"])], INPUT, OUTPUT, **options, **W)


def refused(made, folder, words):
    path = made if not isinstance(made, onnx.ModelProto) else folder / "model.onnx"
    if isinstance(made, onnx.ModelProto):
        path.write_bytes(made.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no graph"),
        (b"PK\x03\x04 a zip archive, as PyTorch saves", "is no ONNX model"),
        (bytes(range(256)) * 40, "is no ONNX model"),
        (good().SerializeToString()[:-7], "is no ONNX model, or was cut off"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, tmp_path, words)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    refused(tmp_path / "none.onnx", tmp_path, "is no file")
    with pytest.raises(UnsupportedModelError, match="is no file"):
        understand(tmp_path, X)


def test_a_file_larger_than_a_model_can_be_is_not_read(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no room on disk
    refused(path, tmp_path, "2,147,483,648 bytes; up to")


@pytest.mark.parametrize("dims", [[4, 4], [-4, 3], [2**40, 2**40], [4]])
def test_shapes_that_the_bytes_do_not_fill_are_refused(tmp_path, dims):
    made = good()
    made.graph.initializer[[x.name for x in made.graph.initializer].index("w")].dims[:] = dims
    refused(made, tmp_path, r"the tensor 'w' (has|is)")


def test_shapes_are_held_against_numbers_too_that_are_not_raw_and_within_nodes(tmp_path):
    made = good()
    made.graph.initializer.append(helper.make_tensor("v", F, [3], [1.0, 2.0, 3.0]))
    made.graph.initializer[-1].dims[:] = [300]
    refused(made, tmp_path, r"'v' has the shape \[300\] but 3 numbers")
    made = good()
    constant = node("Constant", [], ["c"], value=helper.make_tensor("inner", I64, [2], [1, 2]))
    constant.attribute[0].t.dims[:] = [2**50]
    made.graph.node.insert(0, constant)
    refused(made, tmp_path, r"'inner' has the shape \[1125899906842624\]")


def test_a_sparse_tensor_of_unlikely_size_is_refused(tmp_path):
    made = good()
    values, indices = helper.make_tensor("s", F, [1], [1.0]), helper.make_tensor("i", I64, [1], [5])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))
    refused(made, tmp_path, "the sparse tensor 's'")


def external(folder, location, offset=None, length=None, data=b"\0" * 64, name="weights.bin"):
    made = good()
    (folder / name).write_bytes(data)
    tensor = next(x for x in made.graph.initializer if x.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, given in (("location", location), ("offset", offset), ("length", length)):
        if given is not None:
            tensor.external_data.add(key=key, value=str(given))
    return made


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "sub/../../secret.bin",
        "C:\\secret.bin",
        "..\\secret.bin",
        "",
        "none.bin",
        "sub",
        "link.bin",
        "a\0b",
    ],
)
def test_tensors_outside_the_folder_are_not_read(tmp_path, location):
    folder = tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    refused(
        external(folder, location),
        folder,
        "the tensor 'w' lies (at|in) .*a relative path to a file in the model's folder",
    )


@pytest.mark.parametrize(
    ("offset", "length", "words"),
    [
        (None, 44, "but 44 bytes; 48 bytes"),
        (32, 48, "takes the bytes 32 to 80 of weights.bin, which has 64"),
        (-8, 48, "has the offset '-8'"),
        (0, "many", "has the length 'many'"),
        (2**62, 48, "takes the bytes"),
    ],
)
def test_places_outside_of_the_file_are_refused(tmp_path, offset, length, words):
    refused(external(tmp_path, "weights.bin", offset, length), tmp_path, words)


def test_tensors_that_share_their_bytes_do_not_multiply_them(tmp_path):
    made = external(tmp_path, "weights.bin", 0, 48)
    tensor = next(x for x in made.graph.initializer if x.name == "w")
    for index in range(3):
        made.graph.initializer.append(tensor)
        made.graph.initializer[-1].name = f"again{index}"
    refused(made, tmp_path, "shares its bytes")


def test_an_external_tensor_is_read_from_where_it_lies(tmp_path):
    data = b"\0" * 16 + W["w"].tobytes()
    path = saved_raw(external(tmp_path, "weights.bin", 16, data=data), tmp_path)
    serves(understand(path, X))


def saved_raw(made, folder):
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_cycles_unknown_values_and_names_given_twice_are_refused(tmp_path):
    cycle = model(
        [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Identity", ["b"], ["y"])],
        INPUT,
        [value("y", ["n", 4])],
    )
    refused(cycle, tmp_path, "is no valid ONNX model.*sorted")
    unknown = model([node("Add", ["x", "nobody"], ["y"])], INPUT, [value("y", ["n", 4])])
    refused(unknown, tmp_path, "is no valid ONNX model.*nobody")
    twice = model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], INPUT, [value("y", ["n", 4])])
    refused(twice, tmp_path, "is no valid ONNX model")
    same = good()
    same.graph.initializer.append(same.graph.initializer[0])
    refused(same, tmp_path, "two tensors named")


def test_operators_that_nobody_has_are_named(tmp_path):
    custom = model(
        [node("Fancy", ["x"], ["y"], domain="acme", name="front")], INPUT, [value("y", ["n", 4])], domains=["acme"]
    )
    refused(custom, tmp_path, "the node 'front' is the operator acme::Fancy")
    contrib = model(
        [node("Nonsense", ["x"], ["y"], domain="com.microsoft")],
        INPUT,
        [value("y", ["n", 4])],
        domains=["com.microsoft"],
    )
    refused(contrib, tmp_path, "com.microsoft::Nonsense")
    standard = model([node("Nonsense", ["x"], ["y"])], INPUT, [value("y", ["n", 4])])
    refused(standard, tmp_path, "is no valid ONNX model.*Nonsense")


def test_operators_that_come_with_onnx_runtime_are_taken(tmp_path):
    nodes = [node("Gelu", ["x"], ["g"], domain="com.microsoft"), dropout("g", "d"), node("MatMul", ["d", "w"], ["y"])]
    serves(understood(model(nodes, INPUT, OUTPUT, domains=["com.microsoft"], **W), tmp_path, X))


def test_old_operators_are_refused(tmp_path):
    refused(good(opset=6), tmp_path, "version 6 of the ONNX operators; 7 or later")


def test_functions_that_call_themselves_or_multiply_are_refused(tmp_path):
    def function(name, *called):
        body = [node(other, [f"a{i}"], [f"a{i + 1}"], domain="own") for i, other in enumerate(called)]
        return helper.make_function("own", name, ["a0"], [f"a{len(called)}"], body, [helper.make_opsetid("own", 1)])

    def calling(*functions):
        return model(
            [node("F0", ["x"], ["y"], domain="own")],
            INPUT,
            [value("y", ["n", 4])],
            functions=functions,
            domains=["own"],
        )

    refused(calling(function("F0", "F1"), function("F1", "F0")), tmp_path, "the function own::F[01] calls itself")
    last = helper.make_function(
        "own", "F9", ["a0"], ["a1"], [node("Relu", ["a0"], ["a1"])], [helper.make_opsetid("", 17)]
    )
    bomb = calling(*(function(f"F{i}", *[f"F{i + 1}"] * 10) for i in range(9)), last)
    refused(bomb, tmp_path, "1,000,000,000 nodes with its functions written out")


def test_graphs_nested_without_end_are_refused(tmp_path):
    inner = helper.make_graph([node("Identity", ["x"], ["a"])], "g", [], [value("a", ["n", 4])])
    for _ in range(18):
        inner = (
            helper.make_graph(
                [node("If", ["on"], ["a"], then_branch=inner, else_branch=inner)], "g", [], [value("a", ["n", 4])]
            )
            if _ < 2
            else helper.make_graph(
                [
                    node(
                        "If",
                        ["on"],
                        ["a"],
                        then_branch=inner,
                        else_branch=helper.make_graph(
                            [node("Identity", ["x"], ["a"])], "e", [], [value("a", ["n", 4])]
                        ),
                    )
                ],
                "g",
                [],
                [value("a", ["n", 4])],
            )
        )
    refused(
        model([node("If", ["on"], ["y"], then_branch=inner, else_branch=inner)], INPUT, [value("y", ["n", 4])]),
        tmp_path,
        "nests graphs",
    )


def test_a_value_of_unlikely_size_is_refused_before_it_is_made(tmp_path):
    nodes = [
        node("ConstantOfShape", ["huge"], ["h"]),
        node("ReduceSum", ["h"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["a"]),
        dropout("a", "d"),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    refused(
        model(nodes, INPUT, OUTPUT, huge=np.array([2**20, 2**20]), **W),
        tmp_path,
        r"ConstantOfShape\) is to make a tensor of shape \[1048576, 1048576\]",
    )


def test_a_size_that_only_inference_tells_is_refused_too(tmp_path):
    nodes = [
        node("Concat", ["many", "many"], ["huge"], axis=0),
        node("ConstantOfShape", ["huge"], ["h"]),
        node("ReduceSum", ["h"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["d0"]),
        dropout("d0", "d"),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    refused(model(nodes, INPUT, OUTPUT, many=np.array([2**20]), **W), tmp_path, "'h' has 1,099,511,627,776 elements")


def test_names_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(good().SerializeToString().replace(b"drop", b"dr\xf0p"))
    refused(path, tmp_path, "as the name of a NodeProto; text in UTF-8")


def test_a_batch_that_is_written_into_the_graph_is_refused_with_what_mends_it(tmp_path):
    """A class token for one row."""
    nodes = [node("Concat", ["token", "x"], ["d0"], axis=1), dropout("d0", "d"), node("MatMul", ["d", "w"], ["y"])]
    made = model(nodes, [value("x", [1, 2, 4])], [value("y", [1, 3, 3])], token=numbers(1, 1, 4), **W)
    with pytest.raises(
        UnsupportedModelError, match=r"Concat.*any number of rows is accepted.*dynamic axis \(PyTorch: dyn"
    ):
        understood(made, tmp_path, numbers(3, 2, 4))


@pytest.mark.parametrize("to", [[1, 4], [1, -1], [1, 2, 2]])
def test_shapes_that_are_written_down_for_one_row_are_opened(tmp_path, to):
    nodes = [
        node("Reshape", ["x", "to"], ["r"]),
        dropout("r", "d"),
        node("Flatten", ["d"], ["f"]),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    made = model(nodes, [value("x", [1, 2, 2])], [value("y", [1, 3])], to=np.array(to), **W)
    serves(understood(made, tmp_path, numbers(3, 2, 2)))


def test_shapes_that_say_something_else_of_other_rows_are_found_out(tmp_path):
    """[steps, rows, features] for one row: it is not the first number that grows with the rows."""
    nodes = [
        node("Reshape", ["x", "to"], ["r"]),
        dropout("r", "d"),
        node("ReduceMean", ["d"], ["m"], axes=[0], keepdims=0),
        node("MatMul", ["m", "w"], ["y"]),
    ]
    made = model(nodes, [value("x", [1, 2, 4])], [value("y", [1, 3])], to=np.array([2, 1, 4]), **W)
    subject = understood(made, tmp_path, numbers(3, 2, 4))
    with pytest.raises(AssertionError, match="equals its eval mode"):  # which is the graph's as it was given
        serves(subject)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (numbers(3, 5), {}, r"example for the input 'x' has the shape \[3, 5\]; \[rows, 4\] is accepted"),
        ({"z": X}, {}, r"given for \['z'\]; the graph takes \['x'\]"),
        ((X, X), {}, r"2 example inputs are given; the graph takes 1"),
        (np.array([["a"] * 4]), {}, r"the input 'x' is of <U1"),
        (X, {"output": "z"}, r"outputs names 'z'; the graph's outputs are \['y'\]"),
        (X, {"output": 1}, r"outputs names 1"),
    ],
)
def test_examples_that_do_not_fit_are_refused(tmp_path, x, options, words):
    with pytest.raises(InvalidInputError, match=words):
        understood(good(), tmp_path, x, **options)


def test_inputs_and_outputs_that_are_no_tensors_of_numbers_are_refused(tmp_path):
    made = good()
    made.graph.input.append(value("text", ["n"], TensorProto.STRING))
    with pytest.raises(UnsupportedModelError, match="the input 'text' is STRING"):
        understood(made, tmp_path, (X, X))
    made = good()
    made.graph.node.append(node("SequenceConstruct", ["y"], ["all"]))
    made.graph.output.append(helper.make_tensor_sequence_value_info("all", F, None))
    with pytest.raises(UnsupportedModelError, match="the output 'all' is no tensor"):
        understood(made, tmp_path, X)
    serves(understood(made, tmp_path, X, output="y"))
    del made.graph.output[0]
    with pytest.raises(UnsupportedModelError, match="is no tensor of numbers; a graph with an output that is one"):
        understood(made, tmp_path, X)


def test_probabilities_in_maps_are_refused_with_what_makes_them(tmp_path):
    """The form of skl2onnx as it is by default: a list of dictionaries, one a row."""
    made = good()
    made.graph.node.append(node("ZipMap", ["y"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]))
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(F, None))
    made.graph.output.append(helper.make_value_info("maps", helper.make_sequence_type_proto(maps)))
    with pytest.raises(UnsupportedModelError, match=r"'maps' is no tensor .*without, zipmap=False, is accepted"):
        understood(made, tmp_path, X)


def test_reading_leaves_the_file_as_it_is(tmp_path):
    path = saved(good(), tmp_path)
    before = path.read_bytes()
    subject = understand(path, X)
    assert path.read_bytes() == before
    assert all(check.passed for check in subject.own_checks())
    path.write_bytes(before + b"\0")
    assert [check.name for check in subject.own_checks() if not check.passed] == ["the file did not change"]
