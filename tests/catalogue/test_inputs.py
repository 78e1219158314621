"""Networks of several inputs, of whole numbers and booleans, and with chosen sites: bundle to answer, by the server."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.code import load_network
from mcdropout.catalogue.provenance import stale_parts
from mcdropout.engine import Program, Site, SiteOff
from tests.api.test_http import JSON, assert_problem, difference
from tests.bundles import TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

NOISY = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.1))
            self.mean, self.noise = nn.Linear(16, 1), nn.Linear(16, 1)

        def forward(self, mixture, age):
            hidden = self.layers(nn.functional.pad(mixture, (0, 1)) + age[:, None])
            return {"log_variance": self.noise(hidden)[:, 0], "hidden": hidden, "mean": self.mean(hidden)[:, 0]}
"""
STEPS_FIRST = """
    from torch import nn
    from mcdropout.layers import GaussianDropout

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.drop, self.head = nn.GRU(2, 8), GaussianDropout(0.5), nn.Linear(8, 3)

        def forward(self, steps):
            hidden = self.gru(steps)[0][-1]
            return hidden, self.head(self.drop(hidden)).T
"""
BARE = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.layers(x)
"""
PICTURES = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3))

        def forward(self, pixels):
            assert pixels.dtype == torch.uint8
            return self.layers(pixels.permute(0, 3, 1, 2) / 255)
"""
IDS, MASK = [3, 14, 15, 9, 2], [True, True, True, True, False]
MIXTURE, AGE = [0.5, 0.25, -1.0, 2.0], 3.5
TOKEN_FORM = '{"input_ids": [...], "attention_mask": [...]}'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles whose networks take and give something else than one input and one output."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(
        folder, "tokens", TOKENS, **TOKEN_FIELDS, dropout={"exclude": ["first"], "p": {"head.*": 0.25, "head.2": 0.75}}
    )
    noisy = write_bundle(
        folder,
        "noisy",
        NOISY,
        task="regression",
        input=None,
        inputs=[
            {"name": "mixture", "shape": [4], "preprocessing": {"mean": 1, "std": [1, 2, 1, 2]}},
            {"name": "age", "shape": [], "minimum": 0},
        ],
        output={"mean": "mean", "log_variance": "log_variance"},
    )
    (noisy / "example.json").write_text(json.dumps({"inputs": {"mixture": [MIXTURE] * 2, "age": [AGE, 1]}}))
    write_bundle(
        folder,
        "steps-first",
        STEPS_FIRST,
        input={"name": "steps", "shape": [6, 2], "row_axis": 1},
        output=1,
        output_row_axis=1,
    )
    write_bundle(folder, "bare", BARE, dropout={"add": {"layers.1": 0.25}})
    write_bundle(folder, "unmatched", TOKENS, **TOKEN_FIELDS, dropout={"exclude": ["nowhere.*"]})
    write_bundle(folder, "unknown-output", TOKENS, **(TOKEN_FIELDS | {"output": "scores"}))
    unbounded = [{"name": "input_ids", "shape": [5], "dtype": "int64"}, {"name": "attention_mask", "shape": [5]}]
    write_bundle(folder, "unbounded", TOKENS, **(TOKEN_FIELDS | {"inputs": unbounded}))
    write_bundle(folder, "pictures", PICTURES, input={"name": "pixels", "shape": [4, 4, 3], "dtype": "uint8"})
    for name in ("tokens", "noisy", "steps-first", "bare", "pictures"):
        compiled(folder / name)
    damaged = write_bundle(folder, "damaged", TOKENS, **TOKEN_FIELDS)
    (damaged / "example.json").write_text('{"inputs": {"input_ids": [1, 2, 3, 4, 20], "attention_mask": [true]}}')
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server on these bundles."""
    log = tmp_path_factory.mktemp("log")
    with serving(models, log, "--default", "tokens", "--log-format", "json", MCDROPOUT_MAX_ROWS="50") as running:
        running.wait_until_ready()
        yield running


def ask(server: Server, model: str, inputs: Any, **query: Any) -> list[dict[str, Any]]:
    response = server.client.post(f"/models/{model}/predict", params=query, json={"inputs": inputs})
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def eval_mode(models: Path, model: str) -> nn.Module:
    return load_network(Bundle(models / model))


def test_inputs_by_keyword_and_logits_among_other_outputs_are_answered_as_eval_mode_does(
    server: Server, models: Path
) -> None:
    ids, mask = [IDS, IDS[::-1]], [MASK, [False, True, True, True, True]]
    rows = ask(server, "tokens", {"attention_mask": mask, "input_ids": ids}, mc=0)
    with torch.no_grad():
        returned = eval_mode(models, "tokens")(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    assert np.allclose([row["mean"] for row in rows], returned["logits"].softmax(1), atol=1e-6)


def test_named_mean_and_log_variance_are_answered_as_eval_mode_does(server: Server, models: Path) -> None:
    rows = ask(server, "noisy", {"mixture": [MIXTURE, [0, 0, 0, 0]], "age": [AGE, 0]}, mc=0)
    given = (torch.tensor([MIXTURE, [0.0] * 4]) - 1) / torch.tensor([1.0, 2, 1, 2]), torch.tensor([AGE, 0.0])
    with torch.no_grad():
        returned = eval_mode(models, "noisy")(*given)
    assert np.allclose([row["mean"] for row in rows], returned["mean"], atol=1e-6)
    assert np.allclose([row["aleatoric_variance"] for row in rows], returned["log_variance"].exp(), rtol=1e-5)
    (row,) = ask(server, "noisy", {"mixture": MIXTURE, "age": AGE}, mc=20)
    assert row["variance"] == pytest.approx(row["epistemic_variance"] + row["aleatoric_variance"])


def test_rows_come_first_whatever_dimension_the_network_has_them_in(server: Server, models: Path) -> None:
    steps = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    rows = ask(server, "steps-first", steps.tolist(), mc=0)
    with torch.no_grad():
        _, logits = eval_mode(models, "steps-first")(torch.from_numpy(steps).transpose(0, 1))
    assert np.allclose([row["mean"] for row in rows], logits.T.softmax(1), atol=1e-6)


def test_pictures_of_bytes_reach_a_network_that_takes_them_so(server: Server, models: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    logits = eval_mode(models, "pictures")(torch.from_numpy(pixels))
    found = [row["mean"] for row in ask(server, "pictures", pixels.tolist(), mc=0)]
    np.testing.assert_allclose(found, logits.softmax(1).detach(), atol=1e-6)
    for value in (256, -1):
        response = server.client.post("/models/pictures/predict", json={"inputs": [[[[value] * 3] * 4] * 4]})
        assert_problem(response, 422, [f"values from {value} to {value}; 0 to 255 is accepted"])


def test_a_single_input_may_be_named(server: Server) -> None:
    steps = np.random.default_rng(0).normal(size=(2, 6, 2)).tolist()
    listed, named = (ask(server, "steps-first", given, mc=9, seed=1) for given in (steps, {"steps": steps}))
    assert listed == named


def test_one_row_of_each_input_is_a_batch_of_one(server: Server) -> None:
    for model, one in (
        ("tokens", {"input_ids": IDS, "attention_mask": MASK}),
        ("noisy", {"mixture": MIXTURE, "age": AGE}),
    ):
        alone = ask(server, model, one, mc=5, seed=3)
        assert alone == ask(server, model, {name: [row] for name, row in one.items()}, mc=5, seed=3)


@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 0], [True, 1, True, 1, 0]], ids=["numbers", "mixed"])
def test_a_mask_may_come_as_the_ones_and_zeros_that_tokenizers_give(server: Server, mask: list[int]) -> None:
    expected, given = (
        server.client.post(
            "/predict?mc=9&seed=4", json={"inputs": {"input_ids": [IDS] * 2, "attention_mask": [one] * 2}}
        )
        for one in (MASK, mask)
    )
    assert given.status_code == 200, given.text
    assert given.json()["predictions"] == expected.json()["predictions"]


def test_a_row_of_several_inputs_is_answered_the_same_alone_and_in_a_batch(server: Server) -> None:
    ids = np.random.default_rng(1).integers(0, 20, (16, 5)).tolist()
    batch = ask(server, "tokens", {"input_ids": ids, "attention_mask": [MASK] * 16}, mc=30, seed=4)
    (alone,) = ask(server, "tokens", {"input_ids": ids[0], "attention_mask": MASK}, mc=30, seed=4)
    assert difference(alone, batch[0]) < 1e-6
    assert alone["mutual_information"] > 0


def changed(position: int, value: Any) -> list[Any]:
    return [*IDS[:position], value, *IDS[position + 1 :]]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([IDS, MASK], ["inputs is a list", TOKEN_FORM]),
        (None, ["inputs is null", TOKEN_FORM]),
        ({}, ["inputs lacks ['input_ids', 'attention_mask'];", TOKEN_FORM]),
        ({"input_ids": IDS}, ["inputs lacks ['attention_mask'];", TOKEN_FORM]),
        ({"input_ids": IDS, "attention_mask": MASK, "mc": 3}, ["inputs holds the unknown ['mc'];", TOKEN_FORM]),
        (
            {"input_ids": IDS, "mask": MASK},
            ["inputs lacks ['attention_mask'] and holds the unknown ['mask']", TOKEN_FORM],
        ),
        ({"input_ids": IDS[1:], "attention_mask": MASK}, ["inputs.input_ids", "[4]", "[5]", "[rows, 5]"]),
        ({"input_ids": [IDS, IDS[1:]], "attention_mask": MASK}, ["inputs.input_ids", "ragged", "[5] for one row"]),
        ({"input_ids": {}, "attention_mask": MASK}, ["inputs.input_ids", "[]", "[5] for one row"]),
        ({"input_ids": IDS, "attention_mask": []}, ["inputs.attention_mask", "[0]", "[5] for one row"]),
        (
            {"input_ids": [IDS] * 2, "attention_mask": [MASK] * 3},
            ["inputs.input_ids is a list of 2", "inputs.attention_mask is a list of 3", "the same number of rows"],
        ),
        (
            {"input_ids": IDS, "attention_mask": [MASK]},
            ["inputs.input_ids is one row", "inputs.attention_mask is a list of 1", "one row for each"],
        ),
        ({"input_ids": [IDS] * 51, "attention_mask": [MASK] * 51}, ["51 rows", "1 to 50"]),
        ({"input_ids": changed(2, 15.0), "attention_mask": MASK}, ["inputs.input_ids", "15.0", "whole", "not as 1.0"]),
        ({"input_ids": changed(2, True), "attention_mask": MASK}, ["inputs.input_ids", "true", "whole numbers"]),
        ({"input_ids": changed(2, None), "attention_mask": MASK}, ["inputs.input_ids", "null", "whole numbers"]),
        ({"input_ids": changed(2, "15"), "attention_mask": MASK}, ["inputs.input_ids", '"15"', "whole numbers"]),
        ({"input_ids": changed(2, {}), "attention_mask": MASK}, ["inputs.input_ids", "an object", "whole numbers"]),
        ({"input_ids": changed(2, 20), "attention_mask": MASK}, ["inputs.input_ids", "2 to 20", "0 to 19"]),
        ({"input_ids": changed(2, -1), "attention_mask": MASK}, ["inputs.input_ids", "-1 to 14", "0 to 19"]),
        ({"input_ids": changed(2, 2**64 - 1), "attention_mask": MASK}, ["inputs.input_ids", "out of range", "whole"]),
        ({"input_ids": changed(2, 2**70), "attention_mask": MASK}, ["inputs.input_ids", "1.18", "whole numbers"]),
        (
            {"input_ids": IDS, "attention_mask": [1, 1, 1, 2, 0]},
            ["inputs.attention_mask holds 2; true and false, or 1"],
        ),
        ({"input_ids": IDS, "attention_mask": [*MASK[1:], -1]}, ["inputs.attention_mask holds -1; true and false, or"]),
        (
            {"input_ids": IDS, "attention_mask": [*MASK[1:], 1.0]},
            ["inputs.attention_mask holds 1.0; true and false, or"],
        ),
        ({"input_ids": IDS, "attention_mask": [*MASK[1:], 2**63]}, ["inputs.attention_mask holds 9223372036854775808"]),
        ({"input_ids": IDS, "attention_mask": [*MASK[1:], None]}, ["inputs.attention_mask", "null", "true and false"]),
        ({"input_ids": IDS, "attention_mask": ["true"] * 5}, ["inputs.attention_mask", '"true"', "true and false"]),
    ],
)
def test_tokens_that_cannot_be_used_are_refused_with_what_would_be(
    server: Server, inputs: Any, said: list[str]
) -> None:
    assert_problem(server.client.post("/predict", content=json.dumps({"inputs": inputs}), headers=JSON), 422, said)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"mixture": MIXTURE, "age": [[AGE]]}, ["inputs.age", "[1, 1]", "a single value", "[rows]"]),
        ({"mixture": MIXTURE, "age": {}}, ["inputs.age", "an object", "numbers"]),
        ({"mixture": MIXTURE, "age": "old"}, ["inputs.age", '"old"', "numbers"]),
        ({"mixture": MIXTURE, "age": False}, ["inputs.age", "false", "numbers"]),
        ({"mixture": MIXTURE, "age": -1}, ["inputs.age", "-1 to -1", "at least 0"]),
        ({"mixture": [*MIXTURE[:3], 1e39], "age": 1}, ["inputs.mixture", "1e+39", "float32", "infinite"]),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_with_what_would_be(
    server: Server, inputs: Any, said: list[str]
) -> None:
    response = server.client.post("/models/noisy/predict", content=json.dumps({"inputs": inputs}), headers=JSON)
    assert_problem(response, 422, said)


def test_another_name_for_a_single_input_is_refused_with_its_own(server: Server) -> None:
    response = server.client.post("/models/steps-first/predict", json={"inputs": {"x": [[0, 0]] * 6}})
    assert_problem(response, 422, ["['x']", "['steps']", '{"steps": [...]}'])


def test_a_body_of_other_fields_is_refused_with_the_names_of_the_inputs(server: Server) -> None:
    response = server.client.post("/predict", json={"input_ids": IDS, "attention_mask": MASK})
    assert_problem(response, 422, ["['attention_mask', 'input_ids']", f'{{"inputs": {TOKEN_FORM}}}'])


def test_a_model_is_described_with_its_inputs_and_all_sites_on_and_off(server: Server) -> None:
    described = server.client.get("/models/tokens").json()
    assert [(taken["name"], taken["shape"], taken["dtype"], taken["maximum"]) for taken in described["inputs"]] == [
        ("input_ids", [5], "int64", 19),
        ("attention_mask", [5], "bool", None),
    ]
    on, off = described["sites"]
    assert (on["path"], on["p"], on["on"], on["reason"], on["shape"], on["scope"]) == (
        "head.2",
        0.25,
        True,
        None,
        [8],
        "row",
    )
    assert (off["path"], off["kind"], off["p"], off["on"], off["shape"]) == ("first", "element", 0.1, False, None)
    assert off["reason"] == "the selection leaves it out"
    lines = [line for line in map(json.loads, server.log.splitlines()) if line.get("model") == "tokens"]
    (told,) = [line for line in lines if line["event"] == "model ready"]
    assert (told["sites"], told["sites_off"]) == (1, 1)


def test_dropout_that_was_added_is_described_as_such_and_no_other(server: Server) -> None:
    (site,) = server.client.get("/models/bare").json()["sites"]
    assert (site["path"], site["p"], site["on"], site["injected"]) == ("layers.1", 0.25, True, True)
    assert [site["injected"] for site in server.client.get("/models/tokens").json()["sites"]] == [False, False]
    (row,) = ask(server, "bare", MIXTURE, mc=20)
    assert max(row["variance"]) > 0


def test_a_site_of_normal_numbers_has_no_p(server: Server) -> None:
    (site,) = server.client.get("/models/steps-first").json()["sites"]
    assert (site["path"], site["kind"], site["p"], site["on"]) == ("drop", "normal", None, True)


def test_a_description_holds_all_that_is_known_of_sites_and_program(server: Server) -> None:
    described = server.client.get("/models/tokens").json()
    known = {field.name for kind in (Site, SiteOff) for field in dataclasses.fields(kind)}
    assert all(set(site) == known | {"on"} for site in described["sites"])
    program = server.client.get("/models/noisy").json()["program"]
    assert set(program) == {field.name for field in dataclasses.fields(Program)}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("unmatched", ["'nowhere.*'", "matches the path of no site", "'first', 'head.2'"]),
        ("unknown-output", ["'scores'", "the keys 'hidden' (", "and 'logits' ("]),
        ("unbounded", ["model.yaml", "'input_ids'", "int64", "minimum", "maximum", "example.json"]),
        ("damaged", ["example.json", "inputs.input_ids", "1 to 20", "0 to 19"]),
    ],
)
def test_a_bundle_that_does_not_fit_its_network_is_refused_with_the_reason(
    server: Server, model: str, said: list[str]
) -> None:
    described = server.client.get(f"/models/{model}").json()
    assert described["state"] == "failed"
    for words in said:
        assert words in described["error"]


def test_sizes_that_are_accepted_now_want_a_program_that_was_checked_at_them(tmp_path: Path) -> None:
    network = TOKENS.replace("attention_mask, input_ids", "input_ids").replace("attention_mask", "(input_ids > 0)")
    fields = {
        "inputs_by": "keyword",
        "output": "logits",
        "input": {"name": "input_ids", "shape": ["tokens"], "dtype": "int64", "minimum": 0, "maximum": 19},
        "sizes": {"tokens": [1, 6]},
    }
    folder = compiled(write_bundle(tmp_path, "tokens", network, **fields))
    path = folder / "model.yaml"
    path.write_text(path.read_text().replace("- 6", "- 60"))
    assert stale_parts(Bundle(folder)) == ["model.yaml changed"]
