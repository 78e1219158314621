"""Predictions by a client are what the service answers, as arrays: against the real server, with real models."""

import asyncio
import copy
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from mcdropout import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    PredictResponse,
    RefusedRequestError,
    UnavailableError,
    UnreachableError,
    UnusableInputsError,
)
from tests.api.test_columns import PATIENT, WITHOUT_NAN
from tests.bundles import write_bundle
from tests.client.answering import PREDICTION, Reply, answering
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import Server, free_port, serving

PERSON = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, age, height):
            return self.layers(torch.stack([age.float(), torch.nan_to_num(height)], 1))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose steps no clock cuts: how passes are cut into steps moves the last digits of an answer."""
    log = tmp_path_factory.mktemp("log")
    with serving(MODELS, log, "--default", "mnist-cnn", MCDROPOUT_STEP_SECONDS="100") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=patience(60.0)) as one:
        yield one


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server whose default model takes two inputs of a value each, one of which may be missing; the other
    model takes rows of a table."""
    inputs = [
        {"name": "age", "shape": [], "dtype": "int64", "minimum": 0, "maximum": 120},
        {"name": "height", "shape": [], "missing": "allowed", "minimum": 0, "maximum": 3},
    ]
    folder = tmp_path_factory.mktemp("models")
    bundle = write_bundle(folder, "person", PERSON, input=None, inputs=inputs)
    (bundle / "example.json").write_text('{"inputs": {"age": [30, 40, 50], "height": [1.5, 1.6, 1.7]}}')
    compiled(write_bundle(folder, "patients", WITHOUT_NAN, input=PATIENT))
    log = tmp_path_factory.mktemp("log")
    with serving(folder, log, "--default", "person", MCDROPOUT_STEP_SECONDS="100") as running:
        running.wait_until_ready()
        with Client(running.url, timeout=patience(60.0)) as one:
            yield one


def example(model: str) -> Any:
    return json.loads((MODELS / model / "example.json").read_text())["inputs"]


@pytest.mark.parametrize("has_arrow", [True, False])
def test_text_of_a_frame_is_answered_as_the_numbers_of_its_categories(
    persons: Client, has_arrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_arrow:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = pd.DataFrame({"b64": [0, 1.25], "weight": [70.5, 3], "ward": ["B", "intensive care"], "age": [31, 5]})
    found = persons.predict(frame, model="patients", mc=5, seed=3)
    expected = persons.predict([[31, 1, 70.5, 0], [5, 7.5, 3, 1.25]], model="patients", mc=5, seed=3)
    np.testing.assert_array_equal(found.mean, expected.mean)
    assert found.label == expected.label
    with pytest.raises(RefusedRequestError, match="row 1 of inputs has \"C\" in the column 'ward'; one of"):
        persons.predict(frame.assign(ward=["A", "C"]), model="patients")


def raw(server: Server, model: str, query: str) -> dict[str, Any]:
    """What the server answers over plain HTTP."""
    answer = server.client.post(
        f"/models/{model}/predict?{query}",
        content=(MODELS / model / "example.json").read_bytes(),
        headers={"content-type": "application/json"},
    )
    document: dict[str, Any] = answer.json()
    return document


def same(found: Any, expected: list[Any]) -> bool:
    """Whether a statistic of all rows is what JSON has for each; null for NaN, or for what no row has."""
    if found is None:
        return all(one is None for one in expected)
    if not isinstance(found, np.ndarray):
        return list(found) == expected
    return np.array_equal(found, np.asarray(expected, np.float64), equal_nan=True)


BUNDLES = sorted(path.parent.name for path in MODELS.glob("*/model.yaml"))


@pytest.mark.wide
@pytest.mark.parametrize("model", BUNDLES)
def test_every_number_is_the_one_that_the_service_answers(client: Client, server: Server, model: str) -> None:
    for query, asked in (
        ("mc=20&seed=7&samples=true", {"mc": 20, "samples": True}),
        ("mc=0&seed=7", {"mc": 0}),
        ("mc=1&seed=7", {"mc": 1}),
        ("mc=auto&tolerance=0.05&seed=7", {"mc": "auto", "tolerance": 0.05}),
    ):
        expected, response = raw(server, model, query), client.predict(example(model), model=model, seed=7, **asked)
        rows = expected["predictions"]
        assert set(response.keys()) == set(rows[0]) - {"passes", "samples"}
        for name, value in response.values.items():
            assert same(value, [row[name] for row in rows]), name
        assert same(response.samples, [row.get("samples") for row in rows])
        assert response.passes.tolist() == [row["passes"] for row in rows]
        for name in ("model", "version", "mc", "seed"):
            assert getattr(response, name) == expected[name]
        assert (response.tolerance, response.reduced_to) == (expected.get("tolerance"), None)
        assert json.loads(response.content)["predictions"] == rows
        assert response.timing.compute_seconds > 0.0


def test_a_statistic_is_an_attribute_and_an_item_of_the_response_and_of_each_row(client: Client) -> None:
    response = client.predict(example("concrete-mlp"), model="concrete-mlp", seed=7)
    assert response.mean is response["mean"]
    assert response.interval.shape == (4, 2)
    assert len(response) == len(list(response)) == 4
    for index, row in enumerate(response):
        assert (row.index, row.passes) == (index, 50)
        assert row.mean == row["mean"] == response.mean[index]
    assert response[-1].index == 3
    assert {"mean", "interval", "to_pandas"} <= set(dir(response))
    with pytest.raises(AttributeError, match=r"no 'label'; the statistics \['mean', 'variance'"):
        _ = response.label
    with pytest.raises(IndexError):
        _ = response[4]


def test_a_response_can_be_pickled_copied_and_not_changed(client: Client) -> None:
    response = client.predict(example("concrete-mlp"), model="concrete-mlp", seed=7)
    for other in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert np.array_equal(other.mean, response.mean)
    with pytest.raises(AttributeError):
        response.seed = 8  # type: ignore[misc]


def test_to_print_a_response_shows_the_numbers_of_each_row_and_what_is_larger(client: Client) -> None:
    response = client.predict([*example("tumour-mlp")] * 3, model="tumour-mlp", seed=7)
    lines = repr(response).splitlines()
    assert lines[0] == "PredictResponse(model='tumour-mlp', version='1', mc=50, seed=7, rows=9)"
    assert lines[1].split()[:3] == ["label", "passes", "mean"]
    assert lines[2].split()[:3] == ["0", "benign", "50"]
    assert lines[-1].strip() == "... 3 more rows"
    dense = client.predict(example("digits-segmentation"), fields="entropy", model="digits-segmentation", mc=2)
    assert "entropy: array [1, 48, 48]" in repr(dense)


def test_arrays_lists_and_rows_of_arrays_are_answered_alike(client: Client, seven: npt.NDArray[np.float64]) -> None:
    answers = [
        client.predict(inputs, model="mnist-mlp", mc=5, seed=3).mean
        for inputs in (seven, seven[0], seven.astype(np.float32), seven.astype(np.uint8), seven.tolist(), [seven[0]])
    ]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert answers[0].shape == (1, 10)


def test_rows_of_different_lengths_are_a_list_of_arrays(client: Client) -> None:
    rows = [np.array([3215, 1014, 2710]), np.array([1014, 66, 871, 3215, 90, 12])]
    together = client.predict(rows, model="sentiment-cnn", seed=7)
    assert together.mean.shape == (2,)
    assert together.mean[0] == pytest.approx(client.predict(rows[0], model="sentiment-cnn", seed=7).mean[0], abs=1e-6)


def test_inputs_of_several_names_are_a_dict_or_the_columns_of_a_frame(persons: Client) -> None:
    arrays = {"age": np.array([30, 40]), "height": np.array([1.5, np.nan])}
    by_name = persons.predict(arrays, seed=7)
    frame = pd.DataFrame({"height": [1.5, None], "age": [30, 40]})
    assert np.array_equal(persons.predict(frame, seed=7).mean, by_name.mean)
    assert by_name.mean.shape == (2, 3)
    assert by_name.labels is None
    assert [name for name in by_name.to_pandas() if name.startswith("mean")] == ["mean.0", "mean.1", "mean.2"]


def test_a_frame_goes_in_and_a_frame_comes_out(client: Client) -> None:
    frame = pd.DataFrame(example("concrete-mlp"), columns=[f"column {place}" for place in range(8)])
    response = client.predict(frame, model="concrete-mlp", mc=20, seed=7)
    assert np.array_equal(response.mean, client.predict(frame.to_numpy(), model="concrete-mlp", mc=20, seed=7).mean)
    out = response.to_pandas()
    assert out.shape[0] == 4
    assert out["mean"].tolist() == response.mean.tolist()
    assert out["interval.lower"].tolist() == response.interval[:, 0].tolist()
    assert out["interval.upper"].tolist() == response.interval[:, 1].tolist()
    assert out["quantiles"].isna().all()


def test_columns_of_a_frame_are_named_by_the_labels(client: Client, seven: npt.NDArray[np.float64]) -> None:
    out = client.predict(seven, model="mnist-cnn", seed=7).to_pandas()
    assert out.loc[0, "label"] == "7"
    assert out.loc[0, "mean.7"] > 0.99
    canvas = client.predict(example("digits-multilabel"), model="digits-multilabel", seed=7).to_pandas()
    assert [digit for digit in "0123456789" if canvas.loc[0, f"label.{digit}"]] == ["0", "9"]
    maps = client.predict(example("digits-segmentation"), model="digits-segmentation", mc=2, fields=["entropy", "mean"])
    assert maps.to_pandas().loc[0, "mean"].shape == (11, 48, 48)
    reduced = client.predict(
        example("digits-segmentation"), model="digits-segmentation", mc=2, fields="mean", reduce="p95"
    )
    assert "mean.background" in reduced.to_pandas()
    regions = client.predict(
        example("digits-segmentation"),
        model="digits-segmentation",
        mc=2,
        fields="entropy",
        reduce="p95",
        regions=(2, 2),
    )
    assert regions.entropy.shape == (1, 2, 2)


def test_labels_are_asked_for_once_a_version_and_an_answer_does_without_them() -> None:
    replies = [Reply(document=PREDICTION | {"version": version}) for version in "1122"]
    with answering(replies) as server, Client(server.url) as client:
        found = []
        for version in (None, "1", "2", "2"):
            if version is not None:
                summary = {"name": "m", "state": "ready", "default": True, "error": None, "last_error": None}
                output = {"task": "binary", "labels": ["no", f"yes in {version}"]}
                server.described["/models/m"] = summary | {"version": version, "task": "binary", "output": output}
            found.append(client.predict([1.0]).labels)
        assert found == [None, ("no", "yes in 1"), ("no", "yes in 2"), ("no", "yes in 2")]
        assert server.looked_at == ["/models/m"] * 3


def test_an_image_and_its_file_are_answered_as_their_pixels(
    client: Client, seven: npt.NDArray[np.float64], tmp_path: Path
) -> None:
    image = Image.fromarray(seven[0, 0].astype(np.uint8))
    image.save(tmp_path / "seven.png")
    image.convert("RGB").save(tmp_path / "coloured.png")
    expected = client.predict(seven, mc=5, seed=3).mean
    for given in (image, tmp_path / "seven.png", str(tmp_path / "coloured.png"), [image]):
        assert np.array_equal(client.predict(given, mc=5, seed=3).mean, expected)
    with pytest.raises(UnusableInputsError, match="8 pixels high and 8 wide; 28 high and 28 wide"):
        client.predict(image.resize((8, 8)))


def test_bytes_are_a_body_as_it_is(client: Client, server: Server) -> None:
    body = (MODELS / "mnist-cnn" / "example.json").read_bytes()
    assert client.predict(body, seed=7).mean[0].tolist() == raw(server, "mnist-cnn", "seed=7")["predictions"][0]["mean"]


def test_a_refusal_is_an_error_that_says_what_is_accepted_and_under_which_id_it_is_logged(client: Client) -> None:
    for asked, status, said in (
        ({"model": "nix"}, 404, "there is no model 'nix'; one of ["),
        ({"mc": -1}, 422, "mc"),
        ({"model": "mnist-cnn", "fields": "nix"}, 422, "nix"),
        ({"model": "mnist-cnn"}, 422, "[1, 28, 28] for one row"),
    ):
        with pytest.raises(RefusedRequestError, match=str(status)) as caught:
            client.predict([[1.0]], **asked)  # type: ignore[arg-type]
        assert caught.value.status == status
        assert said in caught.value.detail
        assert caught.value.request_id in str(caught.value)


def test_a_deadline_that_nobody_can_meet_is_an_error_of_its_own(client: Client) -> None:
    with pytest.raises(DeadlineExceededError, match="a later deadline_ms is accepted"):
        client.predict(example("mnist-vit"), model="mnist-vit", deadline_ms=1e-6)


def test_models_are_listed_and_described(client: Client) -> None:
    names = {one.name: one for one in client.models()}
    assert set(names) == set(BUNDLES)
    assert [name for name, one in names.items() if one.default] == ["mnist-cnn"]
    words = client.model("sentiment-cnn")
    assert words.inputs is not None
    assert (words.inputs[0].shape, words.inputs[0].dtype, words.task) == (("tokens",), "int64", "regression")
    assert words.sizes == {"tokens": {"minimum": 1, "maximum": 128, "multiple": 1}}
    assert words.document["program"]["checks"]
    digits = client.model()
    assert (digits.name, digits.labels) == ("mnist-cnn", tuple("0123456789"))
    assert digits.statistics is not None
    assert "mutual_information" in digits.statistics
    with pytest.raises(RefusedRequestError, match="404"):
        client.model("../health/live")


def test_a_client_waits_until_a_server_that_starts_is_ready(tmp_path: Path) -> None:
    with serving(MODELS, tmp_path, "--default", "mnist-cnn") as starting, Client(starting.url) as client:
        client.wait_until_ready(patience(60.0))
        assert client.ready()
        starting.stop()
        with pytest.raises(UnreachableError):
            client.ready()


def test_waiting_ends_where_nobody_listens_or_is_not_ready() -> None:

    with (
        Client(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(UnreachableError, match="cannot be reached"),
    ):
        client.wait_until_ready(0.6)
    with answering([]) as server, Client(server.url) as client, pytest.raises(RefusedRequestError, match="404"):
        client.wait_until_ready(0.6)


def test_the_awaited_client_answers_the_same_and_many_at_once(client: Client, server: Server) -> None:
    rows = np.asarray(example("concrete-mlp"))

    async def ask() -> tuple[list[PredictResponse], Any]:
        async with AsyncClient(server.url, timeout=patience(60.0)) as asking:
            await asking.wait_until_ready()
            many = [asking.predict(rows[n : n + 1], model="concrete-mlp", mc=20, seed=n) for n in range(4)]
            answers = await asyncio.gather(*many)
            assert await asking.ready()
            assert (await asking.model("concrete-mlp")).task == "regression"
            with pytest.raises(RefusedRequestError, match="no model 'nix'"):
                await asking.predict(rows, model="nix")
            return answers, await asking.models()

    answers, models = asyncio.run(ask())
    assert models == client.models()
    for number, answer in enumerate(answers):
        alone = client.predict(rows[number : number + 1], model="concrete-mlp", mc=20, seed=number)
        assert answer.seed == number
        assert answer.mean == pytest.approx(alone.mean, abs=1e-6)


def test_a_model_that_is_not_ready_says_so_before_a_frame_is_sent(tmp_path: Path) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.yaml").write_text("name: broken\n")
    with serving(tmp_path / "models", tmp_path, "--no-compile") as running, Client(running.url, retries=0) as client:
        running.wait_until_listening()
        with pytest.raises(UnavailableError, match="503"):
            client.predict(pd.DataFrame({"a": [1.0]}))
        assert not client.ready()
        with pytest.raises(UnavailableError, match="not ready"):
            client.wait_until_ready(0.6)
