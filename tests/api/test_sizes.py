"""Rows of different sizes over HTTP: answered in their order, each as if alone, or refused in a sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdropout.engine import Engine
from tests.api.documented import assert_documented
from tests.api.test_http import JSON, assert_problem
from tests.bundles import write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

TAGGING = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Embedding(30, 8), nn.Dropout(0.25), nn.Linear(8, 3))

        def forward(self, tokens):
            return self.layers(tokens)
"""
PICTURES = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(4, 1, 1)

        def forward(self, picture, age):
            return (self.last(self.drop(self.first(picture).relu())) + age[:, None, None, None])[:, 0]
"""
WORDS = [3, 14, 15, 9, 26]
BUNDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "tagging": (
        TAGGING,
        {
            "labels": ["noun", "verb", "other"],
            "input": {"name": "words", "shape": ["tokens"], "dtype": "int64", "minimum": 0, "maximum": 29},
            "sizes": {"tokens": [1, 12]},
            "output": {"classes": -1},
        },
    ),
    "pictures": (
        PICTURES,
        {
            "task": "regression",
            "input": None,
            "inputs": [{"name": "picture", "shape": [2, "height", "width"]}, {"name": "age", "shape": []}],
            "sizes": {"height": [4, 32], "width": {"minimum": 4, "maximum": 24, "multiple": 4}},
        },
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, (network, fields) in BUNDLES.items():
        compiled(write_bundle(folder, name, network, **fields))
    return folder


@pytest.fixture(scope="module")
def sized(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(models, tmp_path_factory.mktemp("log"), "--default", "tagging", "--no-compile") as running:
        running.wait_until_ready()
        yield running


def ask(server: Server, model: str, inputs: Any, **query: Any) -> dict[str, Any]:
    body = json.dumps({"inputs": inputs})
    response = server.client.post(f"/models/{model}/predict", params=query, content=body, headers=JSON)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_documented(server.client, answer, whole="fields" not in query)
    return answer


def sentence(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([length, seed]).integers(0, 30, length).tolist()


@pytest.mark.wide
@pytest.mark.parametrize("query", [{"mc": 0}, {"mc": 25}, {"mc": "auto"}, {"mc": 10, "samples": True}])
def test_rows_of_different_lengths_are_answered_in_their_order_as_the_engine_answers_them(
    sized: Server, models: Path, query: dict[str, Any]
) -> None:
    rows = [sentence(length, seed) for seed, length in enumerate((5, 12, 1, 5, 12))]
    answers = ask(sized, "tagging", rows, seed=9, **query)["predictions"]
    engine = Engine.load(models / "tagging" / "compiled")
    for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        member = engine.at({"tokens": len(row)})
        found = member.run((np.array([row]),), [9], [index], answer["passes"], samples=True)
        np.testing.assert_allclose(answer["mean"], found.prediction.mean[0], atol=1e-6)
        np.testing.assert_allclose(answer["entropy"], found.prediction.entropy[0], atol=1e-6)
        assert len(answer["label"]) == len(row)
        if "samples" in query:
            np.testing.assert_allclose(answer["samples"], found.samples[0], atol=1e-6)


def test_one_row_and_a_list_of_one_are_the_same(sized: Server) -> None:
    (alone,) = ask(sized, "tagging", WORDS, seed=1)["predictions"]
    (listed,) = ask(sized, "tagging", [WORDS], seed=1)["predictions"]
    assert alone == listed


def test_a_body_that_is_read_in_parts_holds_rows_of_many_lengths(sized: Server) -> None:
    rows = [sentence(1 + index % 12, index) for index in range(2000)]
    assert len(json.dumps(rows)) > 2**15
    answers = ask(sized, "tagging", rows, mc=0, fields="label")["predictions"]
    assert [len(answer["label"]) for answer in answers] == [len(row) for row in rows]
    for index in (0, 11, 777):
        (alone,) = ask(sized, "tagging", rows[index], mc=0, fields="label")["predictions"]
        assert alone == answers[index]


def test_places_of_rows_of_any_length_are_reduced_to_one_number(sized: Server) -> None:
    rows = [sentence(3), sentence(12)]
    whole = ask(sized, "tagging", rows, mc=20, seed=3)["predictions"]
    reduced = ask(sized, "tagging", rows, mc=20, seed=3, fields="entropy", reduce="mean")["predictions"]
    for row, one in zip(whole, reduced, strict=True):
        assert one["entropy"] == pytest.approx(np.mean(row["entropy"]), abs=1e-6)


def test_pictures_of_different_heights_and_widths_beside_a_number_each(sized: Server) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.random((2, height, width)).round(3).tolist() for height, width in ((4, 8), (9, 4), (4, 8))]
    answers = ask(sized, "pictures", {"picture": pictures, "age": [1, 2, 3]}, mc=10, seed=5)["predictions"]
    assert [np.shape(answer["mean"]) for answer in answers] == [(4, 8), (9, 4), (4, 8)]
    alone = ask(sized, "pictures", {"picture": pictures[0], "age": 1}, mc=10, seed=5)["predictions"]
    np.testing.assert_allclose(alone[0]["mean"], answers[0]["mean"], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([WORDS, [1] * 13], "row 1 of inputs has the shape [13]; [tokens (1 to 12)] for one row"),
        ([WORDS, []], "row 1 of inputs has the shape [0]"),
        ([], "inputs has the shape [0]"),
        (3, "inputs holds lists 0 deep"),
        ([[WORDS]], "inputs holds lists 3 deep"),
        ([WORDS, [1, [2]]], "row 1 of inputs is ragged"),
        ([WORDS, [1, 30]], "row 1 of inputs holds values from 1 to 30; 0 to 29 is accepted"),
        ([WORDS, [1, 2.5]], "row 1 of inputs holds 2.5; whole numbers"),
        ([WORDS, 7], "row 1 of inputs has the shape []"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_place(sized: Server, inputs: Any, said: str) -> None:
    body = json.dumps({"inputs": inputs})
    response = sized.client.post("/models/tagging/predict", content=body, headers=JSON)
    assert_problem(response, 422, [said])


def test_sizes_that_are_one_name_but_differ_within_a_row_are_refused(sized: Server) -> None:
    body = json.dumps({"inputs": {"picture": [np.zeros((2, 5, 6)).tolist()], "age": [1]}})
    response = sized.client.post("/models/pictures/predict", content=body, headers=JSON)
    assert_problem(response, 422, ["has the shape [2, 5, 6]", "width (4 to 24 in steps of 4)"])


def test_a_model_says_which_sizes_it_takes_and_which_masks_follow_them(sized: Server) -> None:
    told = sized.client.get("/models/tagging").json()
    assert told["inputs"][0]["shape"] == ["tokens"]
    assert told["sizes"] == {"tokens": {"minimum": 1, "maximum": 12, "multiple": 1}}
    assert told["sites"][0]["shape"] == ["tokens", 8]
    assert told["program"]["runtime"] == "onnx"


def test_each_row_is_counted_once_whatever_its_size(sized: Server) -> None:
    def counted() -> tuple[float, float]:
        lines = sized.client.get("/metrics").text.splitlines()
        return tuple(  # type: ignore[return-value]
            sum(float(line.split()[-1]) for line in lines if line.startswith(name) and 'model="tagging"' in line)
            for name in ("mcdropout_rows_total{", "mcdropout_row_passes_count{")
        )

    before = counted()
    ask(sized, "tagging", [sentence(length) for length in (2, 3, 2, 9)], mc=5)
    assert np.subtract(counted(), before).tolist() == [4, 4]


def test_the_zoo_rates_sentences_of_any_length(server: Server) -> None:
    def tokens_of(text: str) -> list[int]:
        import re
        import zlib

        return [1 + zlib.crc32(word.encode()) % 4095 for word in re.findall(r"[a-z']+|[!?]", text.lower())]

    texts = ["A wonderful film!", "Dull, stupid and far too long: the worst film of the year.", "It opens on Friday."]
    good, bad, plain = ask(server, "sentiment-cnn", [tokens_of(text) for text in texts], mc=200, seed=7)["predictions"]
    assert good["mean"] > 0.5 > -0.5 > bad["mean"]
    assert good["mean"] > plain["mean"] > bad["mean"]
    assert all(row["aleatoric_variance"] > row["epistemic_variance"] > 0 for row in (good, bad, plain))
