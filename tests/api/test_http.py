"""The service as a client sees it: the real server, on the repository's own bundles."""

import gzip
import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.code import load_network
from tests.api.documented import assert_documented, strict_validator
from tests.conftest import MODELS
from tests.servers import Server

ROW_FIELDS = {
    "label",
    "mean",
    "variance",
    "std_error",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
    "passes",
}
STATISTICS = ROW_FIELDS - {"label", "passes"}
JSON = {"content-type": "application/json"}


def predict(server: Server, inputs: Any, path: str = "/predict", **query: Any) -> dict[str, Any]:
    inputs = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    response = server.client.post(path, params=query, json={"inputs": inputs})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_documented(server.client, answer)
    return answer


def noisy_digits(seven: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.float64]:
    noise = np.random.default_rng(3).integers(0, 200, (rows, *seven.shape[1:]))
    return np.minimum(seven + noise, 255)


def difference(row: dict[str, Any], other: dict[str, Any]) -> float:
    assert row["label"] == other["label"]
    return max(float(np.abs(np.subtract(row[name], other[name])).max()) for name in STATISTICS)


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_a_seven_is_answered_as_seven_with_every_field(
    server: Server, seven: npt.NDArray[np.float64], model: str
) -> None:
    answer = predict(server, seven, f"/models/{model}/predict", mc=50, seed=7)
    assert set(answer) == {"model", "version", "mc", "seed", "predictions", "timing"}
    assert (answer["model"], answer["version"], answer["mc"], answer["seed"]) == (model, "1", 50, 7)
    assert set(answer["timing"]) == {"queue_seconds", "compute_seconds"}
    (row,) = answer["predictions"]
    assert set(row) == ROW_FIELDS
    assert (row["label"], row["passes"]) == ("7", 50)
    assert sum(row["mean"]) == pytest.approx(1.0)
    assert np.allclose(row["std_error"], np.sqrt(np.divide(row["variance"], 50)))
    assert row["mutual_information"] == pytest.approx(row["entropy"] - row["expected_entropy"], abs=1e-12)


@pytest.mark.parametrize("model", ["mnist-cnn", "concrete-mlp"])
@pytest.mark.parametrize(
    "query",
    ["mc=0", "mc=1", "mc=50", "mc=auto&tolerance=0.05", "mc=20&samples=true", "mc=0&samples=true", "deadline_ms=60000"],
)
def test_an_answer_is_what_the_documentation_says(server: Server, model: str, query: str) -> None:
    body = (MODELS / model / "example.json").read_bytes()
    response = server.client.post(f"/models/{model}/predict?{query}", content=body, headers=JSON)
    assert response.status_code == 200, response.text
    assert_documented(server.client, response.json())


def test_an_answer_that_lacks_a_field_or_has_another_is_not_what_the_documentation_says(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    answer = predict(server, seven, mc=3)
    documented = strict_validator(server.client.get("/openapi.json").json())
    for name in sorted(ROW_FIELDS):
        row = {key: value for key, value in answer["predictions"][0].items() if key != name}
        assert not documented.is_valid(answer | {"predictions": [row]}), name
    assert not documented.is_valid(answer | {"predictions": [answer["predictions"][0] | {"odds": 1.0}]})
    assert not documented.is_valid(answer | {"predictions": [answer["predictions"][0] | {"mean": None}]})


def test_an_answer_has_its_fields_in_order(server: Server) -> None:
    orders = {
        "mnist-cnn": "label passes mean variance std_error entropy expected_entropy mutual_information variation_ratio",
        "concrete-mlp": "passes mean variance std_error epistemic_variance aleatoric_variance entropy interval "
        "quantiles",
    }
    for model, order in orders.items():
        body = (MODELS / model / "example.json").read_bytes()
        response = server.client.post(f"/models/{model}/predict?mc=3&samples=true", content=body, headers=JSON)
        assert list(response.json()["predictions"][0]) == [*order.split(), "samples"]


def test_the_default_model_answers_the_short_path(server: Server, seven: npt.NDArray[np.float64]) -> None:
    assert predict(server, seven, mc=1)["model"] == "mnist-cnn"


def test_one_row_without_the_row_dimension_is_a_batch_of_one(server: Server, seven: npt.NDArray[np.float64]) -> None:
    alone, batch = (predict(server, given, mc=5, seed=1)["predictions"] for given in (seven[0], seven))
    assert alone == batch


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_mc_0_is_the_softmax_of_the_network_in_eval_mode(
    server: Server, seven: npt.NDArray[np.float64], model: str
) -> None:
    digits = noisy_digits(seven, 16)
    rows = predict(server, digits, f"/models/{model}/predict", mc=0)["predictions"]
    with torch.no_grad():
        logits = load_network(Bundle(MODELS / model))(torch.tensor(digits / 255, dtype=torch.float32))
    expected = logits.softmax(1).numpy()
    assert np.abs(np.array([row["mean"] for row in rows]) - expected).max() < 1e-5
    for row in rows:
        assert row["passes"] == 0
        assert row["entropy"] >= 0.0
        for name in ("variance", "std_error", "expected_entropy", "mutual_information", "variation_ratio"):
            assert row[name] is None


def test_without_mc_the_models_default_number_of_passes_runs(server: Server, seven: npt.NDArray[np.float64]) -> None:
    answer = predict(server, seven)
    assert answer["mc"] == answer["predictions"][0]["passes"] == 50


def test_a_seed_is_drawn_returned_and_answers_the_same_again(server: Server, seven: npt.NDArray[np.float64]) -> None:
    first, second = predict(server, seven, mc=20), predict(server, seven, mc=20)
    assert first["seed"] != second["seed"]
    again = predict(server, seven, mc=20, seed=first["seed"])
    for name in ("mean", "variance", "std_error", "mutual_information"):  # but for how passes were cut into steps
        found, wanted = (answer["predictions"][0][name] for answer in (again, first))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_the_same_seed_gives_the_same_answer_alone_in_a_batch_and_among_64_clients(
    server: Server, seven: npt.NDArray[np.float64], model: str
) -> None:
    digits, path = noisy_digits(seven, 32), f"/models/{model}/predict"
    batch = predict(server, digits, path, mc=30, seed=11)["predictions"]
    alone = predict(server, digits[:1], path, mc=30, seed=11)["predictions"]
    assert difference(alone[0], batch[0]) < 1e-6

    def ask(client: int) -> dict[str, Any]:
        if client == 0:
            return predict(server, digits, path, mc=30, seed=11)
        if client < 16:
            return predict(server, digits[:1], path, mc=30, seed=11)
        return predict(server, digits[client % 32], path, mc=30 + client % 3, seed=client)

    with ThreadPoolExecutor(64) as clients:
        crowded = [answer["predictions"] for answer in clients.map(ask, range(64))]
    assert max(map(difference, crowded[0], batch)) < 1e-6
    assert max(difference(rows[0], batch[0]) for rows in crowded[1:16]) < 1e-6


def test_rows_of_a_batch_draw_masks_of_their_own(server: Server, seven: npt.NDArray[np.float64]) -> None:
    digits = noisy_digits(seven, 1).repeat(2, axis=0)
    first, second = predict(server, digits, "/models/mnist-mlp/predict", mc=10, seed=0)["predictions"]
    assert first["mean"] != second["mean"]


def test_samples_are_what_the_statistics_sum_up(server: Server, seven: npt.NDArray[np.float64]) -> None:
    (row,) = predict(server, seven, "/models/mnist-mlp/predict", mc=40, seed=5, samples=True)["predictions"]
    samples = np.array(row["samples"])
    assert samples.shape == (40, 10)
    assert np.allclose(samples.mean(axis=0), row["mean"])
    assert np.allclose(samples.var(axis=0, ddof=1), row["variance"])


def test_a_large_batch_is_answered_row_by_row(server: Server, seven: npt.NDArray[np.float64]) -> None:
    digits = noisy_digits(seven, 300)
    rows = predict(server, digits, mc=20, seed=2)["predictions"]
    assert len(rows) == 300
    assert difference(rows[0], predict(server, digits[:1], mc=20, seed=2)["predictions"][0]) < 1e-6


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"inputs": [1, 2]}', ["[2]", "[1, 28, 28]", "[rows, 1, 28, 28]"]),
        ('{"inputs": [[1], [2, 3]]}', ["ragged", "[1, 28, 28]"]),
        ('{"inputs": []}', ["[0]", "[1, 28, 28]"]),
        ('{"inputs": "seven"}', ["[]", "[1, 28, 28]"]),
        ('{"inputs": [NaN]}', ["no JSON", "NaN"]),
        ("{", ["no JSON"]),
        ("[]", ["list", '{"inputs": [...]}']),
        ('{"input": []}', ["input", '{"inputs": [...]}']),
        ('{"inputs": [], "mc": 3}', ["mc", '{"inputs": [...]}']),
        ("[" * 100_000, ["nests lists or objects hundreds deep"]),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_what_would_be(server: Server, body: str, said: list[str]) -> None:
    assert_problem(server.client.post("/predict", content=body, headers=JSON), 422, said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ["null", "numbers"]),
        ("7", ['"7"', "numbers"]),
        (True, ["true", "numbers"]),
        (-1, ["-1", "0 to 255"]),
        (256, ["256", "0 to 255"]),
        (10**30, ["1e+30", "0 to 255"]),
        (1e300, ["0 to 255"]),
    ],
)
def test_a_value_that_is_no_pixel_is_refused(
    server: Server, seven: npt.NDArray[np.float64], value: Any, said: list[str]
) -> None:
    rows = seven.astype(int).tolist()
    rows[0][0][3][5] = value
    response = server.client.post("/predict", content=json.dumps({"inputs": rows}), headers=JSON)
    assert_problem(response, 422, said)


def test_infinity_by_overflow_is_refused(server: Server, seven: npt.NDArray[np.float64]) -> None:
    body = json.dumps({"inputs": seven.tolist()}).replace("0.0", "1e999", 1)
    assert_problem(server.client.post("/predict", content=body, headers=JSON), 422, ["accepted"])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("mc=-1", ["mc", "-1", "0"]),
        ("mc=many", ["mc", "many", "a whole number from 0 on, or auto, is accepted"]),
        ("mc=1000000", ["1000000", "10000"]),
        ("seed=-1", ["seed", "-1"]),
        (f"seed={2**64}", ["seed", str(2**64)]),
        ("samples=perhaps", ["samples", "perhaps"]),
        ("mc=50&seed=1&mc=0", ["'mc'", "2 times", "'50', '0'", "once"]),
        ("passes=3", ["passes", "mc, tolerance, deadline_ms, seed, samples, p, fields"]),
    ],
)
def test_a_query_that_cannot_be_used_is_refused_with_what_would_be(
    server: Server, seven: npt.NDArray[np.float64], query: str, said: list[str]
) -> None:
    assert_problem(server.client.post(f"/predict?{query}", json={"inputs": seven.tolist()}), 422, said)


def test_more_samples_than_an_answer_may_hold_are_refused(server: Server, seven: npt.NDArray[np.float64]) -> None:
    body = {"inputs": seven.repeat(101, axis=0).tolist()}
    response = server.client.post("/predict?mc=10000&samples=true", json=body)
    assert_problem(response, 422, ["101 rows", "10000 passes", "1000000"])


def test_a_client_that_goes_away_in_its_body_is_no_fault_of_the_server(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"x-request-id: went-away\r\ncontent-length: 100\r\n\r\n{"
        )
    (told,) = map(json.loads, server.wait_for_log("went-away"))
    assert (told["event"], told["status"]) == ("request", 400)


def test_a_body_that_is_not_json_is_refused(server: Server) -> None:
    for headers in ({"content-type": "text/csv"}, {}):
        response = server.client.post("/predict", content=b"1,2", headers=headers)
        assert_problem(response, 415, ["application/json"])
    compressed = server.client.post("/predict", content=gzip.compress(b"{}"), headers=JSON | {"content-encoding": "br"})
    assert_problem(compressed, 415, ["'br'", "gzip", "identity"])


def test_a_body_over_the_limit_is_refused_whether_it_tells_its_size_or_not(server: Server) -> None:
    too_much = b" " * (33 * 2**20)
    assert_problem(server.client.post("/predict", content=too_much, headers=JSON), 413, [str(32 * 2**20)])

    def stream() -> Any:
        yield from (too_much[i : i + 2**20] for i in range(0, len(too_much), 2**20))

    assert_problem(server.client.post("/predict", content=stream(), headers=JSON), 413, [str(32 * 2**20)])


def test_an_unknown_model_is_named_with_those_that_there_are(server: Server) -> None:
    for response in (server.client.post("/models/x/predict"), server.client.get("/models/x")):
        assert_problem(response, 404, ["'x'", "mnist-cnn", "mnist-mlp"])
    assert_problem(server.client.get("/nothing"), 404, ["/nothing"])
    assert_problem(server.client.get("/predict"), 405, ["GET", "POST"])


def assert_problem(response: httpx.Response, status: int, said: list[str]) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"] == response.headers["x-request-id"]
    for words in said:
        assert words in problem["detail"]


def test_a_model_is_described_with_its_sites_program_and_checks(server: Server) -> None:
    listed = {model["name"]: model for model in server.client.get("/models").json()["models"]}
    assert {"mnist-cnn", "mnist-mlp"} <= set(listed)
    assert listed["mnist-cnn"]["default"]
    assert listed["mnist-cnn"]["state"] == "ready"
    cnn = server.client.get("/models/mnist-cnn").json()
    assert [(site["path"], site["kind"], site["p"], site["scope"], site["on"]) for site in cnn["sites"]] == [
        ("head.3", "element", 0.5, "row", True)
    ]
    assert (cnn["program"]["strategy"], cnn["program"]["runtime"]) == ("split", "onnx")
    assert cnn["program"]["frontier"] == [{"shape": [128], "per_row": True, "input": None, "merged": False}]
    assert cnn["program"]["prefix_operations"] > cnn["program"]["suffix_operations"]
    assert cnn["program"]["cost"]["prefix"] > cnn["program"]["cost"]["suffix"]
    assert all(check["passed"] for check in cnn["program"]["checks"])
    assert len(cnn["program"]["checks"]) >= 7
    assert [(taken["name"], taken["shape"], taken["maximum"]) for taken in cnn["inputs"]] == [
        ("image", [1, 28, 28], 255)
    ]
    assert cnn["output"]["labels"] == list("0123456789")
    assert {told["name"] for told in cnn["output"]["statistics"]} == ROW_FIELDS - {"passes"}
    told = {told["name"]: told for told in cnn["output"]["statistics"]}
    assert told["entropy"] == {
        "name": "entropy",
        "description": "Predictive entropy, in nats: total uncertainty.",
        "unit": "nats",
    }
    mlp = server.client.get("/models/mnist-mlp").json()
    assert [site["p"] for site in mlp["sites"]] == [0.2, 0.5, 0.5, 0.5]


def test_a_request_keeps_the_id_that_it_came_with_and_the_log_tells_of_it(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    response = server.client.post(
        "/predict?mc=3", json={"inputs": seven.tolist()}, headers={"X-Request-ID": "my-request-1"}
    )
    assert response.headers["x-request-id"] == "my-request-1"
    (told,) = map(json.loads, server.wait_for_log('"request_id": "my-request-1"'))
    assert (told["event"], told["status"], told["model"], told["mode"], told["rows"]) == (
        "request",
        200,
        "mnist-cnn",
        "mc",
        1,
    )
    assert told["seconds"] > 0


def test_an_id_that_could_forge_a_log_line_is_replaced(server: Server) -> None:
    response = server.client.get("/models", headers={"X-Request-ID": "a b{}"})
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", response.headers["x-request-id"])


def samples_of(server: Server) -> dict[str, float]:
    lines = [line for line in server.client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_what_was_done(server: Server, seven: npt.NDArray[np.float64]) -> None:
    before = samples_of(server)
    predict(server, seven.repeat(3, axis=0), mc=7, seed=1)
    predict(server, seven, mc=0)
    server.client.post("/predict?mc=3", content="{", headers=JSON)
    server.client.post("/predict?mc=3&tolerance=0.1", content="{}", headers=JSON)  # whose model is known, and no more
    after = samples_of(server)

    def grown(series: str) -> float:
        return after.get(series, 0.0) - before.get(series, 0.0)

    mc, deterministic, wrong, unplanned = (
        f'mode="{mode}",model="mnist-cnn",status="{status}"'
        for mode, status in (("mc", 200), ("deterministic", 200), ("mc", 422), ("unknown", 422))
    )
    for labels in (mc, deterministic, wrong, unplanned):
        assert grown(f"mcdropout_requests_total{{{labels}}}") == 1
        assert grown(f"mcdropout_request_duration_seconds_count{{{labels}}}") == 1
    assert grown('mcdropout_rows_total{model="mnist-cnn"}') == 4
    assert grown('mcdropout_pairs_total{model="mnist-cnn"}') == 3 * 7 + 1
    assert grown('mcdropout_step_rows_sum{model="mnist-cnn"}') == 4
    assert grown('mcdropout_predictive_entropy_nats_count{model="mnist-cnn"}') == 4
    assert grown('mcdropout_mutual_information_nats_count{model="mnist-cnn"}') == 3
    assert grown('mcdropout_queue_duration_seconds_count{model="mnist-cnn"}') == 2
    assert grown('mcdropout_compute_duration_seconds_sum{model="mnist-cnn"}') > 0
    assert after['mcdropout_model_ready{model="mnist-cnn"}'] == 1
    buckets = [name for name in after if name.startswith("mcdropout_request_duration_seconds_bucket") and mc in name]
    assert any('le="0.0005"' in name for name in buckets)
    assert any('le="30.0"' in name for name in buckets)


def test_the_documentation_page_describes_the_api(server: Server) -> None:
    assert "swagger" in server.client.get("/docs").text.lower()
    described = server.client.get("/openapi.json").json()
    prediction = described["paths"]["/models/{name}/predict"]["post"]
    assert {"mc", "tolerance", "deadline_ms", "seed", "samples", "p", "fields", "reduce", "regions", "name"} == {
        parameter["name"] for parameter in prediction["parameters"] if parameter["in"] != "header"
    }
    assert prediction["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert {"200", "404", "413", "415", "422", "503", "504"} <= set(prediction["responses"])


@pytest.mark.parametrize(("model", "most_wrong"), [("mnist-cnn", 10), ("mnist-mlp", 20)])
def test_the_first_thousand_test_digits_are_read_about_as_well_as_published(
    server: Server, mnist_folder: Path, model: str, most_wrong: int
) -> None:
    sys.path.insert(0, str(MODELS))
    import mnist

    images, labels = mnist.load(mnist_folder, "test")
    rows = predict(server, images[:1000, None], f"/models/{model}/predict", mc=50, seed=0)["predictions"]
    wrong = sum(row["label"] != str(label) for row, label in zip(rows, labels[:1000], strict=True))
    assert wrong <= most_wrong
