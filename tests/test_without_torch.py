"""Compiled bundles are served without PyTorch, and answer as with it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import write_bundle
from tests.conftest import MODELS
from tests.environments import environment, without_extras
from tests.servers import Server, serving
from tests.sources import write_code, write_onnx

# Steps that no clock cuts: how passes are cut into steps moves the last digits of an answer.
WHOLE_STEPS = {"MCDROPOUT_STEP_SECONDS": "100"}
BUNDLES = sorted(path.parent.name for path in MODELS.glob("*/model.yaml"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that a plain `pip install .` makes."""
    return without_extras(tmp_path_factory.mktemp("plain") / "venv")


@pytest.fixture(scope="module")
def plain(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the repository's bundles, and on one that is not compiled, in that environment."""
    models = tmp_path_factory.mktemp("models")
    for name in BUNDLES:
        shutil.copytree(MODELS / name, models / name)
    write_bundle(models, "new")
    command = (str(python), "-m", "mcdropout")
    with serving(
        models,
        tmp_path_factory.mktemp("log"),
        "--default",
        "mnist-cnn",
        command=command,
        **environment(python) | WHOLE_STEPS,
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the repository's bundles where PyTorch is installed."""
    with serving(MODELS, tmp_path_factory.mktemp("log"), "--default", "mnist-cnn", **WHOLE_STEPS) as running:
        running.wait_until_ready()
        yield running


def predictions(server: Server, model: str, query: str) -> bytes:
    """What a server answers, but for the time that it took."""
    body = (MODELS / model / "example.json").read_bytes()
    answer = server.client.post(
        f"/models/{model}/predict?seed=11&{query}", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    before, _, _ = answer.content.partition(b'"timing"')
    return before


@pytest.mark.parametrize("model", BUNDLES)
def test_predictions_are_the_same_to_the_byte_with_and_without_it(plain: Server, full: Server, model: str) -> None:
    for query in ("mc=0", "mc=1", "mc=50&samples=true"):
        answer = predictions(plain, model, query)
        assert answer == predictions(full, model, query)
        assert b'"mean"' in answer


def test_a_server_of_compiled_bundles_does_not_load_it_where_it_is_installed(server: Server) -> None:
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped


def test_a_bundle_that_has_to_be_compiled_is_refused_with_what_to_install(plain: Server) -> None:
    told: dict[str, Any] = json.loads(plain.client.get("/models/new").content)
    assert told["state"] == "failed"
    assert "torch, which is not installed; pip install 'mcdropout[torch]'" in told["error"]
    assert plain.client.get("/health/ready").status_code == 200


def test_arrow_is_refused_with_what_to_install_and_is_not_listed(plain: Server) -> None:
    stream = "application/vnd.apache.arrow.stream"
    body, lacks = (MODELS / "mnist-cnn" / "example.json").read_bytes(), "pip install 'mcdropout[arrow]'"
    refused = plain.client.post("/predict", content=b"", headers={"content-type": stream})
    assert (refused.status_code, lacks in refused.json()["detail"]) == (415, True)
    headers = {"content-type": "application/json", "accept": stream}
    unwritten = plain.client.post("/predict?mc=0", content=body, headers=headers)
    assert (unwritten.status_code, lacks in unwritten.json()["detail"]) == (406, True)
    headers["accept"] = f"{stream}, application/json;q=0.5"
    assert plain.client.post("/predict?mc=0", content=body, headers=headers).status_code == 200
    assert stream not in plain.client.get("/models/mnist-cnn").json()["formats"]


def test_to_inspect_a_pytorch_network_is_refused_with_what_to_install(python: Path) -> None:
    command = [str(python), "-m", "mcdropout", "inspect", "--format", "json", str(MODELS / "mnist-cnn")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment(python))
    assert done.returncode == 1
    assert "torch, which is not installed; pip install 'mcdropout[torch]'" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_device_that_pytorch_runs_models_on_is_refused_with_what_to_install(python: Path) -> None:
    command = [str(python), "-m", "mcdropout", "serve", "--models", str(MODELS), "--port", "0", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment(python), check=False)
    assert done.returncode == 2
    assert "device is 'cuda', and PyTorch, which runs models there, is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_onnx_model_becomes_a_bundle_without_it_and_other_sources_say_what_they_take(
    python: Path, tmp_path: Path
) -> None:
    write_onnx(tmp_path / "flowers.onnx")
    write_code(tmp_path)

    def init(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(python), "-m", "mcdropout", "init", *arguments, "--into", "models"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(python))

    made = init("flowers.onnx")
    assert made.returncode == 0, made.stderr
    refused = init("alone.py:Words", "--shape", "4:int64")
    assert refused.returncode == 1
    assert "takes torch, which is not installed; pip install 'mcdropout[torch]' mends it" in refused.stderr
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["flowers"]
