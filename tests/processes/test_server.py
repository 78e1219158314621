"""Starting, becoming ready, stopping, and what a bad bundle does to the rest."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mcdropout.settings import Settings
from tests.bundles import CLASSIFIER, NOISE, REGRESSION, manifest, write_bundle, write_ten_words
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import MCDROPOUT, Server, serving

ROW = [0.1, -0.2, 0.3, 0.4]
NO_DROPOUT = CLASSIFIER.replace("nn.Dropout(0.5)", "nn.Identity()")


def test_ready_is_503_until_the_models_are_loaded_and_a_bad_one_harms_no_other(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models, "good", labels=["a", "b", "c"])  # not compiled, so that it takes some seconds
    write_bundle(models, "plain", NO_DROPOUT)
    compiled(
        write_bundle(
            models, "values", REGRESSION, task="regression", output=NOISE, passes={"default": 20, "maximum": 100}
        )
    )
    mislabelled = compiled(write_bundle(models, "mislabelled"))
    (mislabelled / "model.yaml").write_text(yaml.safe_dump(manifest("mislabelled", labels=["a", "b"])))
    with serving(models, tmp_path, "--default", "good") as server:
        server.wait_until_listening()
        early = server.client.get("/health/ready")
        assert early.status_code == 503
        assert "loading" in early.json()["detail"]
        refused = server.client.post("/predict", json={"inputs": ROW})
        assert refused.status_code == 503
        assert "loading" in refused.json()["detail"]
        server.wait_until_ready()

        states = server.client.get("/health/ready").json()["models"]
        assert states == {"good": "ready", "values": "ready", "plain": "failed", "mislabelled": "failed"}
        assert "no dropout" in server.client.get("/models/plain").json()["error"]
        assert "3 classes" in server.client.get("/models/mislabelled").json()["error"]
        assert server.client.post("/models/plain/predict", json={"inputs": ROW}).status_code == 503
        assert 'mcdropout_model_ready{model="plain"} 0.0' in server.client.get("/metrics").text

        (row,) = server.client.post("/predict?mc=10", json={"inputs": ROW}).json()["predictions"]
        assert row["label"] in "abc"
        answer = server.client.post("/models/values/predict?seed=3", json={"inputs": [ROW, ROW]}).json()
        assert answer["mc"] == 20
        for row in answer["predictions"]:
            assert set(row) == {
                "mean",
                "variance",
                "std_error",
                "epistemic_variance",
                "quantiles",
                "aleatoric_variance",
                "entropy",
                "interval",
                "passes",
            }
            assert row["variance"][0] == pytest.approx(row["epistemic_variance"][0] + row["aleatoric_variance"][0])
            assert row["interval"][0][0] < row["mean"][0] < row["interval"][0][1]
        (baseline,) = server.client.post("/models/values/predict?mc=0", json={"inputs": ROW}).json()["predictions"]
        assert baseline["epistemic_variance"] is None
        assert baseline["variance"] == baseline["aleatoric_variance"]
        (single,) = server.client.post("/predict?mc=1", json={"inputs": ROW}).json()["predictions"]
        assert single["variance"] == [None, None, None]

        assert server.stop() == 0


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes two rows, and 200 bytes, of models that fail for some of them."""
    folder = tmp_path_factory.mktemp("limited")
    code = CLASSIFIER.replace("return self.layers(x)", "return self.layers(x) / (x[:, :1] != 9.0)")
    compiled(write_bundle(folder / "models", "fragile", code))
    compiled(write_ten_words(folder / "models", "words"))
    with serving(folder / "models", folder, MCDROPOUT_MAX_ROWS="2", MCDROPOUT_MAX_BODY_BYTES="200") as server:
        server.wait_until_ready()
        yield server


def test_a_non_finite_answer_is_an_error_for_that_request_alone(limited: Server) -> None:
    response = limited.client.post("/models/fragile/predict", json={"inputs": [ROW, [9.0, 0.0, 0.0, 0.0]]})
    assert response.status_code == 500
    assert "row 1" in response.json()["detail"]
    assert limited.client.post("/models/fragile/predict", json={"inputs": ROW}).status_code == 200


def test_a_step_that_fails_is_a_500_and_leaves_the_connection_as_it_was(limited: Server) -> None:
    with socket.create_connection(("127.0.0.1", limited.port), timeout=patience(30)) as connection:
        answers = connection.makefile("rb")
        for words, status in (([1, 2, 3, 10], 500), ([1, 2, 3, 4], 200)):
            body = json.dumps({"inputs": words}).encode()
            head = "POST /models/words/predict?mc=20 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            assert int(answers.readline().split()[1]) == status
            length = 0
            while line := answers.readline().strip().lower():
                length = int(line.split()[1]) if line.startswith(b"content-length") else length
                assert not line.startswith(b"connection")
            answer = json.loads(answers.read(length))
            assert "request's id" in answer["detail"] if status == 500 else answer["predictions"]
    limited.wait_for_log("status=200", "model=words")  # which is written after all before it
    assert limited.log.count("request failed") == 1


def test_limits_come_from_the_environment(limited: Server) -> None:
    assert limited.client.post("/models/fragile/predict", json={"inputs": [ROW] * 2}).status_code == 200
    too_many = limited.client.post("/models/fragile/predict", json={"inputs": [[1, 1, 1, 1]] * 3})
    assert too_many.status_code == 422
    assert "3 rows; 1 to 2" in too_many.json()["detail"]
    assert limited.client.post("/models/fragile/predict", json={"inputs": [ROW] * 20}).status_code == 413


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--models", "/nowhere"], 2, "/nowhere"),
        (["--port", "99999"], 2, "99999"),
        (["--log-format", "xml"], 2, "xml"),
    ],
)
def test_a_wrong_flag_ends_the_server_with_what_is_wrong(flags: list[str], status: int, said: str) -> None:
    ended = subprocess.run([str(MCDROPOUT), "serve", *flags], capture_output=True, text=True, timeout=patience(60))
    assert ended.returncode == status
    assert said in ended.stderr + ended.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_server_with_status_1(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [str(MCDROPOUT), "serve", "--models", str(MODELS), "--port", port, "--workers", workers]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=patience(60))
    assert ended.returncode == 1
    assert "cannot listen" in ended.stderr
    assert port in ended.stderr


def test_help_names_every_flag_and_its_environment_variable() -> None:
    shown = subprocess.run(
        [str(MCDROPOUT), "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=patience(60),
        env={"COLUMNS": "200"},
    ).stdout
    for flag in ("host", "port", "models", "default", "device", "log-format"):
        assert f"--{flag}" in shown
        assert f"MCDROPOUT_{flag.upper().replace('-', '_')}" in shown
    for name in Settings.model_fields:
        assert re.search(rf"\bMCDROPOUT_{name.upper()}\b", shown), name
