"""Rows as objects: what the same numbers in a list give, or a sentence that names the row and the column."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mcdropout.catalogue.manifest import BundleError, read_manifest
from tests.api.test_http import assert_problem
from tests.bundles import CLASSIFIER, manifest, write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.servers import Server, serving

WARDS = {"A": 0, "B": 1, "intensive care": 7.5}
PATIENT = {
    "name": "patient",
    "shape": [4],
    "minimum": -1,
    "maximum": 120,
    "columns": ["age", "ward", "weight", "b64"],
    "categories": {"ward": WARDS},
}
WHOLE = {
    "name": "counts",
    "shape": [4],
    "dtype": "int32",
    "minimum": 0,
    "maximum": 9,
    "columns": ["a", "b", "c", "d"],
    "categories": {"d": ["none", "some"]},
}
TRUTHS = {"name": "truths", "shape": [4], "dtype": "bool", "columns": ["a", "b", "c", "d"]}
WITHOUT_NAN = CLASSIFIER.replace("self.layers(x)", "self.layers(x.float().nan_to_num(0.5))")
TWO = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, first, second):
            return self.layers(torch.cat([first, second], 1))
"""
BUNDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "patients": (WITHOUT_NAN, {"input": PATIENT}),
    "gaps": (WITHOUT_NAN, {"input": PATIENT | {"missing": "allowed"}}),
    "whole": (WITHOUT_NAN, {"input": WHOLE}),
    "truths": (WITHOUT_NAN, {"input": TRUTHS}),
    "two": (
        TWO,
        {
            "input": None,
            "inputs": [
                {"name": "left", "shape": [2], "columns": ["a", "b"]},
                {"name": "right", "shape": [2], "columns": ["a", "b"], "categories": {"b": ["no", "yes"]}},
            ],
        },
    ),
}
ROW = {"age": 31, "ward": "B", "weight": 70.5, "b64": 0}
MISSPELT = {"Age": 3, "ward": "B", "weight": 70.5, "b64": 0}
VALUES = [31, 1, 70.5, 0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models of tables."""
    folder = tmp_path_factory.mktemp("models")
    for name, (network, fields) in BUNDLES.items():
        compiled(write_bundle(folder, name, network, **fields))
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "patients", "--no-compile") as running:
        running.wait_until_ready()
        yield running


def ask(server: Server, model: str, inputs: Any) -> httpx.Response:
    return server.client.post(f"/models/{model}/predict?mc=5&seed=3", json={"inputs": inputs})


def predictions(server: Server, model: str, inputs: Any) -> Any:
    response = ask(server, model, inputs)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_a_row_is_an_object_in_whatever_order_its_columns_come(tables: Server) -> None:
    others = [{"ward": "intensive care", "b64": 1.25, "weight": -1, "age": 120}, dict(reversed(ROW.items()))]
    expected = predictions(tables, "patients", [VALUES, [120, 7.5, -1, 1.25], VALUES])
    assert predictions(tables, "patients", [ROW, *others]) == expected
    assert predictions(tables, "patients", {"patient": [ROW, *others]}) == expected
    for one in (ROW, [ROW], {"patient": ROW}, VALUES, [VALUES]):
        assert predictions(tables, "patients", one) == predictions(tables, "patients", VALUES)
    many = predictions(tables, "patients", [ROW] * 3000)  # a body that is parsed in a thread
    assert many == predictions(tables, "patients", [VALUES] * 3000)


def test_the_bundle_here_names_its_columns(server: Server) -> None:
    described = server.client.get("/models/concrete-mlp").json()["inputs"][0]
    values = json.loads((MODELS / "concrete-mlp" / "example.json").read_text())["inputs"]
    rows = values if isinstance(values[0], list) else [values]
    objects = [dict(zip(described["columns"], row, strict=True)) for row in rows]
    assert predictions(server, "concrete-mlp", objects) == predictions(server, "concrete-mlp", rows)


def test_whole_numbers_truths_and_what_is_missing(tables: Server) -> None:
    assert predictions(tables, "whole", [{"a": 1, "b": 2, "c": 3, "d": "some"}]) == predictions(
        tables, "whole", [[1, 2, 3, 1]]
    )
    truths = {"a": True, "b": False, "c": True, "d": True}
    expected = predictions(tables, "truths", list(truths.values()))
    assert predictions(tables, "truths", truths) == expected
    assert predictions(tables, "truths", truths | {"a": 1, "b": 0}) == expected
    gaps = [ROW | {"age": None}, ROW | {"ward": None}]
    assert predictions(tables, "gaps", gaps) == predictions(tables, "gaps", [[None, *VALUES[1:]], [31, None, 70.5, 0]])


def test_each_of_several_inputs_has_columns_of_its_own(tables: Server) -> None:
    left, right = [{"a": 1, "b": 2}, {"b": 5, "a": 4}], [{"a": 3, "b": "yes"}, {"a": 6, "b": "no"}]
    expected = predictions(tables, "two", {"left": [[1, 2], [4, 5]], "right": [[3, 1], [6, 0]]})
    assert predictions(tables, "two", {"left": left, "right": right}) == expected
    assert predictions(tables, "two", {"left": left, "right": [[3, 1], [6, 0]]}) == expected
    one = predictions(tables, "two", {"left": [1, 2], "right": [3, 1]})
    assert predictions(tables, "two", {"left": left[0], "right": right[0]}) == one
    uneven = ask(tables, "two", {"left": left, "right": right[0]})
    assert_problem(uneven, 422, ["inputs.left is a list of 2", "inputs.right is one row"])
    wrong = ask(tables, "two", {"left": left, "right": [right[0], {"a": 6, "b": "maybe"}]})
    assert_problem(wrong, 422, ["row 1 of inputs.right has \"maybe\" in the column 'b'", "['no', 'yes']"])


BAD: list[tuple[str, Any, list[str]]] = [
    ("patients", {}, ["inputs lacks ['age', 'ward', 'weight', 'b64']"]),
    (
        "patients",
        {"age": 3},
        ["lacks ['ward', 'weight', 'b64']", "the columns ['age', 'ward', 'weight', 'b64']"],
    ),
    ("patients", [ROW, {}], ["row 1 of inputs lacks"]),
    ("patients", ROW | {"sex": 1}, ["inputs holds the unknown ['sex']"]),
    ("patients", [ROW | {f"column{i}": 1 for i in range(30)}], ["row 0 of inputs holds the unknown", "and 20 more"]),
    (
        "patients",
        [ROW, {"Age": 3} | {k: v for k, v in ROW.items() if k != "age"}],
        ["lacks ['age'] and holds", "['Age']"],
    ),
    ("patients", [ROW, VALUES], ["row 1 of inputs is a list; an object"]),
    ("patients", [ROW, 5], ["row 1 of inputs is 5"]),
    ("patients", [ROW, None], ["row 1 of inputs is null"]),
    ("patients", [VALUES, ROW], ["inputs"]),
    (
        "patients",
        [ROW, ROW | {"ward": "C"}],
        ["row 1 of inputs has \"C\" in the column 'ward'", "'A', 'B', 'intensive care'"],
    ),
    ("patients", ROW | {"ward": 1}, ["inputs has 1 in the column 'ward'; one of"]),
    ("patients", ROW | {"ward": None}, ["inputs has null in the column 'ward'"]),
    ("patients", ROW | {"ward": ["A"]}, ["inputs has a list in the column 'ward'"]),
    ("patients", ROW | {"age": "31"}, ["inputs has \"31\" in the column 'age'; a number is accepted"]),
    ("patients", ROW | {"age": True}, ["inputs has true in the column 'age'"]),
    ("patients", ROW | {"age": None}, ["inputs has null in the column 'age'"]),
    ("patients", ROW | {"age": {"b64": ""}}, ["inputs has an object in the column 'age'"]),
    ("patients", ROW | {"age": 2**63}, ["inputs has 9223372036854775808 in the column 'age'"]),
    ("patients", [ROW, ROW | {"age": 121}], ["row 1 of inputs, in the column 'age', holds values from 121", "120"]),
    ("patients", ROW | {"weight": -2}, ["inputs, in the column 'weight', holds values from -2"]),
    ("patients", [ROW] * 4097, ["inputs holds 4097 rows; 1 to 4096"]),
    ("patients", {"patient": [ROW | {"age": "x"}]}, ["row 0 of inputs.patient has"]),
    ("patients", {"patient": ROW, "age": 3}, ["inputs holds the unknown ['age']; "]),
    ("patients", [{"b64": "AAAA"}], ["row 0 of inputs lacks ['age', 'ward', 'weight']"]),
    ("whole", [{"a": 1.0, "b": 2, "c": 3, "d": "some"}], ["has 1.0 in the column 'a'", "written as 1 and not as 1.0"]),
    ("whole", [{"a": 10, "b": 2, "c": 3, "d": "some"}], ["in the column 'a', holds values from 10", "0 to 9"]),
    ("whole", [{"a": 1, "b": 2, "c": 3, "d": 1}], ["has 1 in the column 'd'; one of ['none', 'some']"]),
    ("truths", [{"a": 2, "b": True, "c": True, "d": True}], ["has 2 in the column 'a'; true or false, or 1 or 0, is"]),
    ("truths", [{"a": 1.0, "b": True, "c": True, "d": True}], ["has 1.0 in the column 'a'; true or false, or 1 or 0"]),
    ("gaps", [ROW | {"age": "x"}], ["in the column 'age'"]),
]


@pytest.mark.parametrize(("model", "inputs", "said"), BAD)
def test_what_is_no_row_is_named_by_its_row_and_column(
    tables: Server, model: str, inputs: Any, said: list[str]
) -> None:
    assert_problem(ask(tables, model, inputs), 422, said)


def test_a_number_that_is_too_large_for_a_float_is_named_by_its_column(tables: Server) -> None:
    body = json.dumps({"inputs": [ROW, ROW]}).replace("70.5", "1e999", 1)
    response = tables.client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422


def test_a_model_says_its_columns_and_their_categories(tables: Server, server: Server) -> None:
    described = tables.client.get("/models/patients").json()["inputs"][0]
    assert described["columns"] == PATIENT["columns"]
    assert described["categories"] == {"ward": WARDS}
    assert tables.client.get("/models/whole").json()["inputs"][0]["categories"] == {"d": {"none": 0, "some": 1}}
    other = server.client.get("/models/mnist-cnn").json()["inputs"][0]
    assert (other["columns"], other["categories"]) == (None, {})


AB = {"shape": [2], "columns": ["a", "b"]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (AB | {"shape": [3]}, "columns has 2 names, and shape is [3]"),
        (AB | {"shape": [1, 2]}, "columns has 2 names"),
        (AB | {"shape": []}, "columns has 2 names"),
        (AB | {"columns": ["a", "a"]}, "names that differ"),
        (AB | {"columns": ["a", "input"]}, "not the input's own, 'input'"),
        (AB | {"columns": ["a", ""]}, "columns"),
        (AB | {"columns": []}, "columns"),
        (AB | {"categories": {"c": ["x"]}}, "categories names the column 'c'; of columns, ['a', 'b']"),
        ({"shape": [2], "categories": {"a": ["x"]}}, "categories names the column 'a'"),
        (AB | {"categories": {"a": []}}, "categories.a"),
        (AB | {"categories": {"a": ["x", "x"]}}, "names that differ are accepted"),
        (AB | {"categories": {"a": {"x": "y"}}}, "categories.a.x"),
        (AB | {"maximum": 1, "categories": {"a": ["x", "y", "z"]}}, "categories.a.z is 2; a number from any to 1"),
        (AB | {"dtype": "int8", "categories": {"a": {"x": 300}}}, "a whole number from -128 to 127"),
        (AB | {"dtype": "int8", "categories": {"a": {"x": 0.5}}}, "categories.a.x is 0.5; a whole number"),
        (AB | {"dtype": "bool", "categories": {"a": ["x"]}}, "for the dtype bool"),
    ],
)
def test_columns_that_fit_no_row_are_refused_with_the_bundle(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(manifest("m", input=fields)))
    with pytest.raises(BundleError) as refused:
        read_manifest(tmp_path / "model.yaml")
    assert said in str(refused.value)
