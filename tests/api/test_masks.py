"""The route of masks, and predictions with another p."""

import json
from typing import Any

import numpy as np
import pytest

from mcdropout import Engine
from tests.conftest import MODELS
from tests.servers import Server


def masks(server: Server, model: str, body: Any = None, **query: Any) -> Any:
    response = server.client.post(f"/models/{model}/masks", params=query, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def predict(server: Server, model: str, **query: Any) -> Any:
    body = json.loads((MODELS / model / "example.json").read_text())
    response = server.client.post(f"/models/{model}/predict", params=query, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-dropconnect", "mnist-vit"])
def test_masks_are_those_of_the_engine(server: Server, model: str) -> None:
    engine = Engine.load(MODELS / model / "compiled")
    found = masks(server, model, seed=7, row=2, first=3, passes=4, units=4096)
    assert (found["seed"], found["row"], found["first"], found["passes"]) == (7, 2, 3, 4)
    assert [site["name"] for site in found["sites"]] == [site.name for site in engine.sites]
    for offset in range(4):
        for site, mask in zip(found["sites"], engine.masks(7, 2, 3 + offset, 1), strict=True):
            kept = (mask.ravel() != 0).astype(int)
            assert site["units"] == len(kept)
            assert site["kept"][offset] == kept.sum()
            assert site["masks"][offset] == kept[site["shown"]].tolist()


def test_wide_sites_are_shown_in_part(server: Server) -> None:
    (whole,) = masks(server, "mnist-cnn", seed=1, units=4096)["sites"]
    (part,) = masks(server, "mnist-cnn", seed=1, units=10)["sites"]
    assert len(part["shown"]) == 10 < whole["units"]
    assert np.diff(part["shown"]).min() >= whole["units"] // 10
    assert part["kept"] == whole["kept"]
    assert part["masks"][0] == [whole["masks"][0][unit] for unit in part["shown"]]


def test_where_sizes_differ_the_body_says_which(server: Server) -> None:
    body = {"inputs": [[5, 6, 7], [5, 6, 7, 8, 9, 10, 11]]}
    short, long = (masks(server, "sentiment-cnn", body, seed=1, row=row)["sites"] for row in (0, 1))
    engine = Engine.load(MODELS / "sentiment-cnn" / "compiled")
    for sites, tokens in ((short, 3), (long, 7)):
        assert [site["shape"] for site in sites] == [list(site.shape) for site in engine.at({"tokens": tokens}).sites]
    beyond = server.client.post("/models/sentiment-cnn/masks", params={"seed": 1, "row": 2}, json=body)
    assert (beyond.status_code, beyond.json()["detail"]) == (
        422,
        "row is 2, and the body has 2; the index of one of them is accepted",
    )
    assert server.client.post("/models/sentiment-cnn/masks", params={"seed": 1}).status_code in (415, 422)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": 1, "passes": 0}, "passes"),
        ({"seed": 1, "passes": 1001}, "passes"),
        ({"seed": 1, "units": 0}, "units"),
        ({"seed": 1, "first": -1}, "first"),
        ({"seed": 1, "p": 1}, "p"),
        ({"seed": 1, "p": 0.999}, "0.01 to 0.95 is accepted by mnist-cnn"),
        ({"seed": 1, "mc": 5}, "mc"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_a_bad_query_is_named(server: Server, query: dict[str, Any], said: str) -> None:
    response = server.client.post("/models/mnist-cnn/masks", params=query)
    assert response.status_code == 422
    assert said in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"passes": 100, "units": 4096}, "at most 32 passes, or fewer units, are accepted at once"),
        ({"passes": 100, "units": 1}, "each draws 233472 numbers; at most 71 is accepted at once"),
    ],
    ids=["shown", "drawn"],
)
def test_no_more_is_drawn_and_shown_than_is_answered_soon(server: Server, query: dict[str, Any], said: str) -> None:
    response = server.client.post("/models/mnist-dropconnect/masks", params={"seed": 1, **query})
    assert response.status_code == 422
    assert said in response.json()["detail"]


@pytest.mark.parametrize("model", ["mnist-cnn", "tumour-mlp"])
def test_the_example_of_a_model_is_what_stands_in_its_bundle(server: Server, model: str) -> None:
    response = server.client.get(f"/models/{model}/example")
    assert response.headers["content-type"] == "application/json"
    assert response.content == (MODELS / model / "example.json").read_bytes()


def test_a_model_that_there_is_not_has_no_masks(server: Server) -> None:
    assert server.client.post("/models/nothing/masks", params={"seed": 1}).status_code == 404
    assert server.client.get("/models/nothing/example").status_code == 404


def test_another_p_is_answered_and_said(server: Server) -> None:
    own, other = predict(server, "mnist-cnn", mc=50, seed=1), predict(server, "mnist-cnn", mc=50, seed=1, p=0.8)
    assert "p" not in own
    assert other["p"] == 0.8
    assert predict(server, "mnist-cnn", mc=50, seed=1, p=0.8)["predictions"] == other["predictions"]
    engine = Engine.load(MODELS / "mnist-cnn" / "compiled").dropping(0.8)
    x = np.asarray(json.loads((MODELS / "mnist-cnn" / "example.json").read_text())["inputs"], np.float32)[None] / 255
    assert other["predictions"][0]["mean"] == pytest.approx(engine.predict(x, 50, seed=1).mean[0], abs=1e-6)
    (site,) = masks(server, "mnist-cnn", seed=1, p=0.8, passes=20)["sites"]
    assert site["p"] == 0.8
    assert np.mean(site["kept"]) / site["units"] == pytest.approx(0.2, abs=0.05)


def test_the_baseline_is_the_same_with_any_p(server: Server) -> None:
    own, other = predict(server, "mnist-cnn", mc=0), predict(server, "mnist-cnn", mc=0, p=0.8)
    assert own["predictions"] == other["predictions"]


@pytest.mark.parametrize(
    ("model", "p", "said"),
    [
        ("mnist-cnn", 0.99, "p is 0.99; 0.01 to 0.95 is accepted by mnist-cnn"),
        ("tumour-mlp", 0.3, "p is 0.3; tumour-mlp drops with its own p alone"),
    ],
)
def test_a_p_beyond_what_the_bundle_allows_is_refused(server: Server, model: str, p: float, said: str) -> None:
    body = json.loads((MODELS / model / "example.json").read_text())
    response = server.client.post(f"/models/{model}/predict", params={"p": p}, json=body)
    assert response.status_code == 422
    assert said in response.json()["detail"]


def test_an_example_is_a_body_that_is_answered(server: Server) -> None:
    for model in ("mnist-cnn", "sentiment-cnn", "digits-segmentation"):
        body = server.client.get(f"/models/{model}/example").json()
        assert server.client.post(f"/models/{model}/predict", params={"mc": 2}, json=body).status_code == 200


def test_what_training_measured_is_described(server: Server) -> None:
    found = server.client.get("/models/mnist-cnn").json()
    assert found["training"] == json.loads((MODELS / "mnist-cnn" / "results.json").read_text())
    assert found["rates"] == {"minimum": 0.01, "maximum": 0.95}


def test_the_answer_of_a_stream_has_samples_where_they_are_asked_for(server: Server) -> None:
    body = (MODELS / "mnist-cnn" / "example.json").read_bytes()
    query = {"mc": 20, "seed": 3, "samples": True}
    path, headers = "/models/mnist-cnn/predict/stream", {"content-type": "application/json"}
    with server.client.stream("POST", path, params=query, content=body, headers=headers) as response:
        events = [event.split("\n") for event in "".join(response.iter_text()).split("\n\n") if event]
    assert events[-1][0] == "event: answer"
    answer = json.loads(events[-1][1].removeprefix("data: "))
    assert answer["predictions"] == predict(server, "mnist-cnn", **query)["predictions"]
    assert all("samples" not in json.loads(data.removeprefix("data: "))["predictions"][0] for _, data in events[:-1])
