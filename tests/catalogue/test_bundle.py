"""Bundles: what a model's folder may hold, and what is refused, named by file and field."""

import contextlib
import json
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from mcdropout.catalogue.bundle import Bundle, find_bundles
from mcdropout.catalogue.code import load_network
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.network import subject_of
from mcdropout.engine import Engine
from mcdropout.engine.runtimes import Target
from tests.bundles import TOKEN_FIELDS, TOKENS, manifest, network_of, write_bundle


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, ["name", "missing"]),
        ({"name": "other"}, ["'other'", "'model'"]),
        ({"task": "clustering"}, ["task", "clustering", "classification", "regression"]),
        ({"input": {"shape": "wide"}}, ["input.shape", "wide"]),
        ({"input": {"shape": [0]}}, ["input.shape.0", "0"]),
        ({"input": {"shape": ["2 d"]}}, ["input.shape.0", "'2 d'", "a name such as tokens"]),
        ({"input": {"shape": ["tokens"]}}, ["shapes of inputs name the sizes ['tokens']", "accepted for []"]),
        ({"sizes": {"tokens": [1, 9]}}, ["name the sizes []", "accepted for ['tokens']"]),
        ({"input": {"shape": ["n"]}, "sizes": {"n": [9, 1]}}, ["sizes.n", "minimum is 9 and maximum is 1"]),
        ({"input": {"shape": ["n"]}, "sizes": {"n": [1, 2, 3]}}, ["sizes.n", "[1, 2, 3]"]),
        (
            {"input": {"shape": ["n"]}, "sizes": {"n": {"minimum": 8, "maximum": 20, "multiple": 8}}},
            ["sizes.n", "maximum is 20", "multiples of 8"],
        ),
        (
            {"input": {"shape": ["n"]}, "sizes": {"n": [1, 2**31 - 1]}},
            ["sizes.n.maximum: is 2147483647", "16777216 is"],
        ),
        ({"input": {"shape": ["n"]}, "sizes": {"n": {"least": 8}}}, ["sizes.n.least", "minimum, maximum, multiple"]),
        (
            {"input": {"shape": ["n"], "preprocessing": {"mean": [1.0]}}, "sizes": {"n": [1, 9]}},
            ["mean", "1 entries", "['n']"],
        ),
        ({"input": {"shape": [4], "dtype": "int7"}}, ["input.dtype", "int7", "float32"]),
        (
            {"input": {"shape": [4], "dtype": "bfloat16"}, "network": None, "weights": None, "model": "m.onnx"},
            ["'input'", "bfloat16", "PyTorch", "float16, float32 and float64"],
        ),
        ({"input": {"shape": [4], "preprocessing": {"std": 0.0}}}, ["std", "0"]),
        ({"input": {"shape": [4], "preprocessing": {"mean": [1.0, 2.0]}}}, ["mean", "2 entries", "[4]"]),
        ({"input": {"shape": [4], "minimum": 3, "maximum": 2.5}}, ["input", "minimum is 3", "maximum is 2.5"]),
        ({"input": {"shape": [4], "row_axis": 2}}, ["input", "row_axis is 2", "0 to 1"]),
        ({"input": {"shape": [], "row_axis": -1}}, ["input.row_axis", "-1"]),
        ({"input": {"shape": [4], "dtype": "int32", "maximum": 0.5}}, ["input", "maximum is 0.5", "whole number"]),
        ({"input": {"shape": [4], "dtype": "int32", "minimum": -(2**31) - 1}}, ["-2147483649", "to 2147483647"]),
        ({"input": {"shape": [4], "dtype": "bool", "minimum": 0}}, ["input", "minimum is 0", "none is accepted"]),
        (
            {"input": {"shape": [4], "dtype": "int64", "preprocessing": {"scale": 2}}},
            ["input", "preprocessing", "int64", "float32 and float64"],
        ),
        ({"input": {"shape": [4], "preprocessing": {"divisor": 2}}}, ["input.preprocessing.divisor", "scale, mean"]),
        ({"input": {"shape": [4], "missing": "yes"}}, ["input.missing", "'yes'", "'refused' or 'allowed'"]),
        ({"input": {"shape": [4], "dtype": "int64", "missing": "allowed"}}, ["input", "missing", "int64", "no NaN"]),
        ({"input": {"shape": [4], "mean": 2}}, ["input.mean", "no known field", "preprocessing"]),
        ({"input": None}, ["input and inputs, neither is given", "one of them"]),
        ({"inputs": [{"name": "other", "shape": []}]}, ["input and inputs, both are given", "one of them"]),
        ({"input": None, "inputs": []}, ["inputs", "at least 1"]),
        ({"input": None, "inputs": [{"shape": [1]}, {"shape": [2]}]}, ["inputs", "'input'", "names that differ"]),
        ({"input": None, "inputs": [{"name": "ids", "shape": [0]}]}, ["inputs.0.shape.0", "0"]),
        ({"inputs_by": "name"}, ["inputs_by", "'name'", "'position' or 'keyword'"]),
        ({"output": ["logits"]}, ["output", "['logits']", "a key, an attribute, a position or a path"]),
        ({"output": True}, ["output", "True", "a key, an attribute, a position or a path"]),
        ({"output": {"mean": "mu"}, "task": "regression"}, ["output", "mean is given", "log_variance"]),
        ({"output": {"mean": 0, "log_variance": 1}}, ["output has mean", "regression", "entry"]),
        ({"output": {"quantiles": [0.1, 0.9]}}, ["output has quantiles", "classification"]),
        ({"output": {"quantiles": [0.9, 0.1]}, "task": "regression"}, ["output", "[0.9, 0.1]", "ascend"]),
        ({"output": {"quantiles": [0.5]}, "task": "regression"}, ["output.quantiles", "at least 2"]),
        ({"output": {"quantiles": [0.5, 1.5]}, "task": "regression"}, ["output.quantiles.1", "1.5"]),
        ({"output": {"along": 1}, "task": "regression"}, ["along is 1", "quantiles"]),
        (
            {"output": {"quantiles": [0.1, 0.9], "mean": 0, "std": 1}, "task": "regression"},
            ["quantiles are given with mean"],
        ),
        (
            {"output": {"quantiles": [0.1, 0.9]}, "noise_variance": 2.0, "task": "regression"},
            ["quantiles beside noise_variance"],
        ),
        ({"output_row_axis": -1}, ["output_row_axis", "-1"]),
        ({"dropout": {"include": []}}, ["dropout.include", "at least 1"]),
        ({"dropout": {"exclude": "head"}}, ["dropout.exclude", "'head'", "list"]),
        ({"dropout": {"p": {"head": 1.5}}}, ["dropout.p.head", "1.5", "1"]),
        ({"dropout": {"p": {"head": True}}}, ["dropout.p.head", "is True", "a number is accepted"]),
        ({"dropout": {"p": {"head": "yes"}}}, ["dropout.p.head", "'yes'", "number"]),
        ({"input": {"shape": [4], "minimum": np.nan}}, ["model.yaml: input.minimum: is nan; a finite number is acc"]),
        (
            {"input": {"shape": [4], "preprocessing": {"mean": "x"}}},
            ["model.yaml: input.preprocessing.mean: is 'x'; a number or a list is accepted"],
        ),
        (
            {"input": {"shape": [2], "preprocessing": {"mean": [1, "x"]}}},
            ["model.yaml: input.preprocessing.mean.1: is 'x'; a number is accepted"],
        ),
        ({"dropout": {"p": {"float": "x", "int": 2}}}, ["dropout.p.float: is 'x'", "dropout.p.int: is 2; a number of"]),
        ({"temperature": True}, ["temperature", "is True", "a number is accepted"]),
        ({"noise_variance": False, "task": "regression"}, ["noise_variance", "is False", "a number is accepted"]),
        ({"input": {"shape": [4], "minimum": True}}, ["input.minimum", "is True", "a number is accepted"]),
        ({"input": {"shape": [4], "maximum": False}}, ["input.maximum", "is False", "a number is accepted"]),
        ({"input": {"shape": [4], "dtype": "int64", "minimum": True}}, ["input.minimum", "is True", "a number"]),
        ({"input": {"shape": [True]}}, ["input.shape.0", "True", "integer"]),
        ({"input": {"shape": [4], "row_axis": True}}, ["input.row_axis", "True", "integer"]),
        ({"input": {"shape": [4], "preprocessing": {"scale": True}}}, ["preprocessing.scale", "is True", "a number"]),
        ({"input": {"shape": [4], "preprocessing": {"mean": False}}}, ["preprocessing.mean", "is False", "a number"]),
        ({"input": {"shape": [2], "preprocessing": {"std": [1, True]}}}, ["preprocessing.std", "is True", "a number"]),
        ({"passes": {"default": True}}, ["passes.default", "True", "integer"]),
        ({"output_row_axis": True}, ["output_row_axis", "True", "integer"]),
        ({"dropout": {"only": ["head"]}}, ["dropout.only", "no known field", "include, exclude, p, add"]),
        ({"dropout": {"add": {"head": 1}}}, ["dropout.add.head.p", "is 1", "less than 1"]),
        (
            {"dropout": {"add": {"head": {"p": 0.1, "kind": "row"}}}},
            ["add.head.kind", "'row'", "'element' or"],
        ),
        ({"dropout": {"add": {"head": {"rate": 0.1}}}}, ["add.head.rate", "no known field", "p, kind are accepted"]),
        ({"dropout": {"add": {"head": 0.0}}}, ["dropout.add.head", "is 0.0", "greater than 0"]),
        ({"dropout": {"add": {"head": True}}}, ["dropout.add.head", "is True", "a number is accepted"]),
        ({"dropout": {"add": ["head"]}}, ["dropout.add", "['head']", "a mapping of fields is accepted"]),
        ({"passes": {"default": 50, "maximum": 10}}, ["passes", "50", "10"]),
        ({"network": "../evil.py:Network"}, ["network", "../evil.py:Network"]),
        ({"colour": "red"}, ["colour", "no known field", "weights"]),
        ({"temperature": -1.0}, ["temperature", "-1"]),
        ({"interval": 95}, ["interval", "95", "between 0 and 1, or none"]),
        ({"interval": "all"}, ["interval", "'all'", "between 0 and 1, or none"]),
        ({"interval": True}, ["interval", "True", "between 0 and 1, or none"]),
        ({"passes": {"maximum": 10**20}}, ["passes.maximum: is 1000000", "a number of at most 1000000000 is accepted"]),
        ({"input": {"shape": [10**6, 10**6]}}, ["[1000000, 1000000], which is 1000000000000 numbers", "at most 42949"]),
        ({"input": {"shape": [4], "minimum": -(10**400)}}, ["input: minimum is an integer too large for a float"]),
        ({"version": 3}, ["version", "3"]),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field_and_what_would_be_accepted(
    tmp_path: Path, changes: dict[str, object], said: list[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", **changes)))
    with pytest.raises(BundleError) as refusal:
        Bundle(folder)
    for words in ["model.yaml", *said]:
        assert words in str(refusal.value)


@pytest.mark.parametrize("method", ["load_state_dict"])
def test_whatever_a_network_raises_while_it_is_loaded_is_a_refusal_that_names_the_line(tmp_path, method):
    folder = write_bundle(tmp_path, "model")
    with (folder / "network.py").open("a") as code:
        code.write(f"    def {method}(self, *_):\n        raise LookupError('two lines:\\nof which both count')\n")
    told = r"two lines: of which both count \(LookupError in \(network\), .*network.py:\d+\)$"
    with pytest.raises(BundleError, match=told):
        load_network(Bundle(folder))


@pytest.mark.parametrize(
    ("line", "interval"), [("", 0.95), ("interval: 0.8", 0.8), ("interval: 8e-1", 0.8), ("interval: none", None)]
)
def test_a_regression_has_the_interval_that_its_manifest_asks_for(
    tmp_path: Path, line: str, interval: float | None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.yaml").write_text(f"{yaml.safe_dump(manifest('model', task='regression'))}{line}\n")
    assert Bundle(folder).manifest.reading.interval == interval


def test_dropout_that_its_manifest_adds_is_a_site_of_its_network(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", dropout={"add": {"layers.1": 0.25}})
    sites = subject_of(Bundle(folder)).sites
    assert [(site.name, site.p, site.injected) for site in sites] == [
        ("layers.1", 0.25, True),
        ("layers.2", 0.5, False),
    ]


def test_dropout_that_its_manifest_adds_is_a_site_of_an_onnx_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    fields = manifest("model", network=None, weights=None, model="model.onnx", dropout={"add": {"hidden": 0.25}})
    (folder / "model.yaml").write_text(yaml.safe_dump(fields))
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["hidden"]), onnx.helper.make_node("Relu", ["hidden"], ["y"])]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 4]) for name in "xy")
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], [weights])
    versions = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=versions, ir_version=8), folder / "model.onnx")
    sites = subject_of(Bundle(folder)).sites
    assert [(site.name, site.p, site.injected) for site in sites] == [("hidden_dropout", 0.25, True)]


def test_an_example_is_handed_on_as_it_stands_whatever_its_size_and_read_where_it_is_small(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path, "model"))
    assert (bundle.example(), bundle.example_bytes()) == (None, None)
    body = json.dumps({"inputs": [[0.5, 1, 2, 3]]})
    for content, found in ((body, {"inputs": [[0.5, 1, 2, 3]]}), (body + " " * 20_000, None)):
        (bundle.folder / "example.json").write_text(content)
        assert (bundle.example(), bundle.example_bytes()) == (found, content.encode())
    (bundle.folder / "example.json").write_text(body + " " * 9_000_000)
    assert bundle.example_bytes() is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("task: regression\n", "task is given twice, in lines {task} and {end}; each field once is accepted"),
        ("dropout:\n  p: {a: 0.5, a: 0.25}\n", "a is given twice, in lines {end2} and {end2}; each field once"),
        ("labels: [a, b, a]\n", "labels: has 'a' more than once; labels that differ are accepted"),
        (f"arguments: {'[' * 3000}{']' * 3000}\n", "nests lists or mappings too deeply; the fields of a model"),
        ("description: 2024-13-45\n", "line {end} has '2024-13-45', which has the form of a date or a time and cannot"),
        (f"temperature: {'1' * 5000}\n", f"line {{end}} has '{'1' * 60}...', which has the form of an integer and"),
        ("temperature: 0b_\n", "line {end} has '0b_', which has the form of an integer and cannot be read as one"),
        ("temperature: !!bool maybe\n", "line {end} has 'maybe', which has the form of true or false"),
        ('labels: ["\\ud800", b]\n', "line {end} has text with half a character, '\\ud800'; whole ones are accepted"),
        ("1: 2\n", "1: is 1; a name of a field, which is text, is accepted"),
    ],
)
def test_what_yaml_says_twice_too_deeply_or_in_no_form_is_refused(tmp_path: Path, more: str, said: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    text = yaml.safe_dump(manifest("model"))
    lines = text.splitlines()
    task = next(index for index, line in enumerate(lines, 1) if line.startswith("task:"))
    (folder / "model.yaml").write_text(text + more)
    told = said.format(task=task, end=len(lines) + 1, end2=len(lines) + 2)
    with pytest.raises(BundleError, match=re.escape(told)):
        Bundle(folder)


def test_yaml_that_merges_mappings_may_say_a_field_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    text = yaml.safe_dump(manifest("model", arguments=None))
    text = "".join(line for line in text.splitlines(True) if not line.startswith("arguments"))
    (folder / "model.yaml").write_text(f"{text}arguments: {{one: &one {{a: 1, b: 2}}, other: {{<<: *one, b: 3}}}}\n")
    assert Bundle(folder).manifest.arguments["other"] == {"a": 1, "b": 3}


def test_a_link_to_a_folder_is_a_bundle_of_the_links_name(tmp_path: Path) -> None:
    """As metrics, answers and addresses have it: two names of one folder would be two models of one name."""
    write_bundle(tmp_path / "releases", "model").rename(tmp_path / "releases" / "second")
    (tmp_path / "model").symlink_to(tmp_path / "releases" / "second")
    (tmp_path / "newest").symlink_to(tmp_path / "releases" / "second")
    assert Bundle(tmp_path / "model").manifest.name == "model"
    with pytest.raises(BundleError, match="name is 'model'; the folder's name, 'newest', is accepted"):
        Bundle(tmp_path / "newest")


def test_a_folder_without_a_manifest_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.yaml: is missing; a bundle is a folder that holds one"):
        Bundle(tmp_path)


@pytest.mark.parametrize("content", ["", "- a\n- b", "name: [", "\x00"])
def test_a_manifest_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.yaml").write_text(content)
    with pytest.raises(BundleError, match=r"model\.yaml"):
        Bundle(tmp_path)


def test_weights_load_from_safetensors_and_from_a_state_dict(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    expected = network_of(folder).state_dict()
    torch.save(expected, folder / "weights.pt")
    for file in ("weights.safetensors", "weights.pt"):
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", weights=file)))
        network = load_network(Bundle(folder))
        assert not network.training
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", weights="weights.pt")
    mark = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"layers.0.weight": Evil()}, folder / "weights.pt")
        with pytest.raises(BundleError, match=r"weights\.pt.*safetensors"):
            load_network(Bundle(folder))
    assert not mark.exists()


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", arguments={"width": 8})
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", arguments={"width": 9})))
    with pytest.raises(BundleError, match=r"do not fit[\s\S]*layers\.0\.weight"):
        load_network(Bundle(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", "../outside.safetensors"),
        ("weights", "absent.safetensors"),
        ("weights", "no\0name"),
        ("weights", "long" * 2000),
    ],
)
def test_a_file_outside_the_bundle_or_absent_is_refused(tmp_path: Path, field: str, value: str) -> None:
    folder = write_bundle(tmp_path, "model")
    (tmp_path / "outside.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", **{field: value})))
    with pytest.raises(BundleError, match="inside the bundle"):
        load_network(Bundle(folder))


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        load_network(Bundle(folder))


def test_code_that_fails_or_lacks_the_network_is_refused(tmp_path: Path) -> None:
    for name, code, said in (
        ("raises", "raise RuntimeError('no luck')", "no luck"),
        ("lacks", "from torch import nn\nclass Other(nn.Module): pass", r"no 'Network'.*Other"),
        ("returns", "def Network(): return 3", "int"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "network.py").write_text(code)
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest(name)))
        (folder / "weights.safetensors").touch()
        with pytest.raises(BundleError, match=said):
            load_network(Bundle(folder))


@pytest.mark.parametrize("lies", ["sizes.py", "sizes/__init__.py"])
def test_a_file_beside_the_network_that_is_imported_as_if_installed_is_told_from_one_that_is_missing(
    tmp_path: Path, lies: str
) -> None:
    folder = write_bundle(tmp_path, "model")
    (folder / "network.py").write_text(f"from sizes import WIDTH\n{(folder / 'network.py').read_text()}")
    with pytest.raises(BundleError, match="cannot be imported: No module named 'sizes'"):
        load_network(Bundle(folder))
    (folder / lies).parent.mkdir(exist_ok=True)
    (folder / lies).write_text("WIDTH = 8\n")
    with pytest.raises(BundleError, match=r"'sizes' .* lies in the bundle; .* as in from \.sizes import"):
        load_network(Bundle(folder))


def test_a_package_that_a_made_bundle_lacks_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path, "model")
    (folder / "network.py").write_text(f"import tokenizers\n{(folder / 'network.py').read_text()}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BundleError, match=r"tokenizers is not installed; pip install 'mcdropout\[texts\]' mends it"):
        load_network(Bundle(folder))


def test_a_network_may_be_spread_over_files_and_two_bundles_do_not_share_them(tmp_path: Path) -> None:
    for name, width in (("one", 5), ("two", 6)):
        folder = tmp_path / name
        write_bundle(tmp_path, name)
        (folder / "network.py").write_text(
            "from .sizes import WIDTH\n" + (folder / "network.py").read_text().replace("width=8", "width=WIDTH")
        )
        (folder / "sizes.py").write_text(f"WIDTH = {width}\n")
    for name, width in (("one", 5), ("two", 6)):
        with pytest.raises(BundleError, match=rf"\[{width}, 4\]"):
            load_network(Bundle(tmp_path / name))


def test_preprocessing_scales_then_normalizes_each_channel() -> None:
    spec = Input.model_validate(
        {"shape": [2, 1, 1], "preprocessing": {"scale": 0.5, "mean": [1.0, 2.0], "std": [2.0, 4.0]}}
    )
    rows = spec.prepare(np.array([[[[6.0]], [[12.0]]]]))
    assert rows.dtype == np.float32
    assert rows.ravel().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "more", [{"minimum": -1.7e308, "maximum": 1.7e308}, {"preprocessing": {"std": 1e-320}}, {"minimum": 1e39}]
)
def test_examples_that_would_be_infinite_are_not_drawn(tmp_path: Path, more: dict[str, object]) -> None:
    folder = write_bundle(tmp_path, "model", input={"shape": [4], **more})
    with pytest.raises(BundleError, match=r"takes values from .* make infinite ones; .*, or rows in example\.json"):
        Bundle(folder).examples(8)


def test_random_examples_are_values_that_the_manifest_accepts(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "ids": {"shape": [5], "dtype": "int32", "minimum": 3, "maximum": 5},
        "mask": {"shape": [2, 3], "dtype": "bool"},
        "pixel": {"shape": [], "dtype": "float64", "maximum": 255, "preprocessing": {"scale": 2}},
        "cold": {"shape": [], "maximum": -5},
        "hot": {"shape": [], "minimum": 40},
    }
    inputs = [{"name": name, **what} for name, what in fields.items()]
    folder = write_bundle(tmp_path, "model", input=None, inputs=inputs)
    ids, mask, pixel, cold, hot = Bundle(folder).examples(100)
    assert (ids.shape, ids.dtype, set(ids.ravel().tolist())) == ((100, 5), np.int32, {3, 4, 5})
    assert (mask.shape, mask.dtype, mask.all()) == ((100, 2, 3), np.bool_, True)
    assert (pixel.shape, pixel.dtype) == ((100,), np.float64)
    assert 0 <= pixel.min() < pixel.max() <= 2 * 255
    assert -6 <= cold.min() < cold.max() <= -5
    assert 40 <= hot.min() < hot.max() <= 41


def test_whole_numbers_are_of_the_type_that_the_network_takes() -> None:
    given = Input(shape=[4], dtype="int64", maximum=100)
    assert (given.within(None, None, np.dtype("int8")).minimum, given.within(None, None, np.dtype("int8")).maximum) == (
        -128,
        100,
    )
    assert given.within(0, None, np.dtype("int64")).minimum == 0
    with pytest.raises(ValueError, match="has the maximum 200; the network takes 127 or less"):
        Input(shape=[4], dtype="int64", maximum=200).within(None, 5000, np.dtype("int8"))


@pytest.mark.parametrize("missing", ["minimum", "maximum"])
def test_integers_that_cannot_be_drawn_want_bounds_or_an_example(tmp_path: Path, missing: str) -> None:
    ids = {"name": "ids", "shape": [5], "dtype": "int64", "minimum": 3, "maximum": 5}
    del ids[missing]
    folder = write_bundle(tmp_path, "model", input=ids)
    with pytest.raises(BundleError, match=r"model\.yaml.*'ids'.*int64.*both are accepted.*example\.json"):
        Bundle(folder).examples(8)
    (folder / "example.json").write_text('{"inputs": [[3, 4, 5, 3, 4], [3, 3, 3, 4, 5]]}')
    (rows,) = Bundle(folder).examples(8)
    assert rows.tolist() == [[3, 4, 5, 3, 4], [3, 3, 3, 4, 5]]
    assert rows.dtype == np.int64


def test_an_example_is_what_a_client_would_send_and_is_preprocessed(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", input={"shape": [4], "preprocessing": {"scale": 0.5}})
    (folder / "example.json").write_text('{"inputs": [2, 4, 6, 8]}')
    (rows,) = Bundle(folder).examples(8)
    assert rows.tolist() == [[1, 2, 3, 4]]
    assert rows.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", ["no JSON"]),
        ("[]", ["list", '{"inputs": {"input_ids": [...], "attention_mask": [...]}}']),
        ('{"inputs": {"input_ids": [1, 2, 3, 4, 5]}}', ["lacks ['attention_mask']", '"input_ids": [...]']),
        ('{"inputs": {"input_ids": [1], "attention_mask": [true]}}', ["inputs.input_ids", "[1]", "[rows, 5]"]),
    ],
)
def test_an_example_that_a_client_could_not_send_is_refused(tmp_path: Path, text: str, said: list[str]) -> None:
    folder = write_bundle(tmp_path, "model", TOKENS, **TOKEN_FIELDS)
    (folder / "example.json").write_text(text)
    with pytest.raises(BundleError) as refusal:
        Bundle(folder).examples(8)
    for words in ["example.json", *said]:
        assert words in str(refusal.value)


def test_an_example_that_is_no_file_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    (folder / "example.json").mkdir()
    with pytest.raises(BundleError, match=r"example\.json"):
        Bundle(folder).examples(8)


def test_the_network_gets_its_inputs_by_keyword_or_position_with_the_rows_where_it_has_them(tmp_path: Path) -> None:
    inputs = [{"name": "x", "shape": [4, 2], "row_axis": 1}, {"name": "age", "shape": []}]
    rows = (np.zeros((3, 4, 2), np.float32), np.zeros(3, np.float32))
    by_position = Bundle(write_bundle(tmp_path, "one", input=None, inputs=inputs)).manifest.for_network(rows)
    assert isinstance(by_position, tuple)
    assert [np.shape(x) for x in by_position] == [(4, 3, 2), (3,)]
    changes: dict[str, object] = {"input": None, "inputs": inputs, "inputs_by": "keyword"}
    by_keyword = Bundle(write_bundle(tmp_path, "two", **changes)).manifest.for_network(rows)
    assert isinstance(by_keyword, dict)
    assert {name: np.shape(x) for name, x in by_keyword.items()} == {"x": (4, 3, 2), "age": (3,)}


def test_inputs_that_are_named_by_paths_reach_the_network_in_its_dict(tmp_path: Path) -> None:
    network = """
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)

            def forward(self, batch):
                return self.head(self.drop(batch["x"] + batch["more"][0]))
    """
    inputs = [{"name": "batch.x", "shape": [4]}, {"name": "batch.more.0", "shape": [4]}]
    bundle = Bundle(write_bundle(tmp_path, "dict", network, input=None, inputs=inputs, inputs_by="keyword"))
    engine = Engine.prepare(subject_of(bundle), bundle.manifest.reading, Target(runtime="eager"))
    rows = bundle.examples(3)
    by_path = engine.predict(bundle.manifest.for_network(rows), 9, 1)
    np.testing.assert_array_equal(engine.predict({"batch": {"x": rows[0], "more": [rows[1]]}}, 9, 1).mean, by_path.mean)


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.yaml"):
        find_bundles(tmp_path)


def test_code_is_what_its_files_hold_now_whatever_bytecode_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be replaced by another of the same size and time, which Python's bytecode is told from by no more."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = write_bundle(tmp_path, "model")
    (folder / "parts").mkdir()
    for place in (folder / "layers.py", folder / "parts" / "more.py"):
        place.write_text("RATE = 0.5\n")
    code = "from .layers import RATE\nfrom .parts.more import RATE as MORE\n" + (folder / "network.py").read_text()
    (folder / "network.py").write_text(code.replace("nn.Dropout(0.5)", "nn.Dropout(RATE * MORE)"))

    def rate() -> float:
        (drop,) = [part for part in load_network(Bundle(folder)).modules() if isinstance(part, nn.Dropout)]
        return drop.p

    assert rate() == 0.25
    for file in ("layers.py", "parts/more.py"):
        stat = (folder / file).stat()
        (folder / file).write_text("RATE = 0.1\n")
        os.utime(folder / file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rate() == pytest.approx(0.01)


HALF = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).bfloat16()
            self.age = nn.Linear(1, 3)

        def forward(self, x, age):
            return self.layers(x).float() + self.age(age)
"""


@pytest.mark.long
def test_a_network_of_bfloat16_gets_its_inputs_in_it(tmp_path: Path) -> None:
    inputs = [{"name": "x", "shape": [4], "dtype": "bfloat16"}, {"name": "age", "shape": [1]}]
    bundle = Bundle(write_bundle(tmp_path, "half", HALF, input=None, inputs=inputs))
    engine = Engine.prepare(subject_of(bundle), bundle.manifest.reading)
    x, age = torch.rand(5, 4), torch.rand(5, 1)
    of_module = Engine.from_module(load_network(bundle), (x.bfloat16(), age))
    found, wanted = (one.samples((first, age), 5, seed=1) for one, first in ((engine, x), (of_module, x.bfloat16())))
    np.testing.assert_array_equal(found, wanted)


def bomb(levels: int, held: str) -> str:
    """A few lines that stand for `10 ** levels` values."""
    lines = ["x0: &x0 " + held]
    for level in range(1, levels):
        names = ", ".join([f"*x{level - 1}"] * 10)
        lines.append(f"x{level}: &x{level} [{names}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (bomb(9, "[a, a, a, a, a, a, a, a, a, a]") + "\ndescription: *x8", "values where its aliases"),
        (bomb(9, "[a, a, a, a, a, a, a, a, a, a]") + "\narguments: {a: *x8}", "values where its aliases"),
        (bomb(9, "{a: 1, b: 2}") + "\ndropout: {<<: *x8}", "values where its aliases"),
        ("x: &x [1, *x]", "has a value in line"),
        ("x: " + "y" * 2**22, "bytes; 4194304 at most are accepted"),
    ],
    ids=["a field", "arguments", "a merge", "itself", "bytes"],
)
def test_yaml_that_is_immense_is_refused_before_it_is_read(tmp_path: Path, more: str, said: str) -> None:
    folder = write_bundle(tmp_path, "model")
    with (folder / "model.yaml").open("a") as file:
        file.write(f"{more}\n")
    with pytest.raises(BundleError) as refused:
        Bundle(folder)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_refusal_quotes_no_more_of_a_value_than_anybody_reads(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", temperature="y" * 100_000)
    with pytest.raises(BundleError, match=r"temperature: is 'y+\.\.\.y+'; a number is accepted") as refused:
        Bundle(folder)
    assert len(str(refused.value)) < 1000


def test_a_refusal_names_no_more_faults_than_anybody_reads(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", **{f"field_{number}": 1 for number in range(1000)})
    with pytest.raises(BundleError, match=r"field_0: is no known field; .*; and 990 more$") as refused:
        Bundle(folder)
    assert len(str(refused.value)) < 5000


@pytest.mark.parametrize("file", ["model.yaml", "example.json"])
def test_a_pipe_is_no_file(tmp_path: Path, file: str) -> None:
    folder = write_bundle(tmp_path, "model")
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    with pytest.raises(BundleError, match=f"{file}: is no regular file"):
        Bundle(folder).examples(2)


def test_a_character_may_be_written_as_json_writes_it(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    with (folder / "model.yaml").open("a") as file:
        file.write('description: "\\ud83d\\ude00"\n')
    assert Bundle(folder).manifest.description == "\U0001f600"


@pytest.mark.parametrize(
    "statement",
    [
        "torch.set_default_dtype(torch.float64)",
        "torch.set_grad_enabled(False)",
        "os.chdir('/')",
        "sys.setrecursionlimit(5000)",
        "torch.set_num_threads(3)",
        "torch.use_deterministic_algorithms(True)",
        "torch.set_default_device('meta')",
    ],
)
def test_what_a_bundles_code_sets_for_the_process_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            Path.cwd(),
            sys.getrecursionlimit(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_device(),
        )

    folder = write_bundle(tmp_path, "model")
    code = (folder / "network.py").read_text()
    (folder / "network.py").write_text(f"import os, sys\nimport torch\n{code}\n\n{statement}\n")
    monkeypatch.chdir(folder.parent)
    before = state()
    with contextlib.suppress(BundleError):  # weights do not fit tensors without any, say
        load_network(Bundle(Path(folder.name)))
    assert state() == before
