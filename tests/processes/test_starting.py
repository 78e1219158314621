"""What a server says while it starts: what it loads, where it listens, that it is ready, or why it is not and ends."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import write_bundle
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import MCDROPOUT, free_port, serving

BODY = (MODELS / "concrete-mlp" / "example.json").read_bytes()
JSON = {"content-type": "application/json"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def put(models: Path, *names: str) -> Path:
    """A folder of bundles of the repository, which are compiled."""
    for name in names:
        shutil.copytree(MODELS / name, models / name)
    return models


def put_broken(models: Path, name: str) -> Path:
    (models / name).mkdir(parents=True)
    (models / name / "model.yaml").write_text("name: another\n")
    return models


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_last_line_of_a_start_says_that_it_is_ready_with_how_many_models_and_where(
    tmp_path: Path, workers: int
) -> None:
    models = put_broken(put(tmp_path / "models", "concrete-mlp", "tumour-mlp"), "broken")
    flags = "--workers", str(workers), "--default", "concrete-mlp"
    with serving(models, tmp_path, *flags, MCDROPOUT_LOG_FORMAT="json") as server:
        server.wait_for_log("ready: ")
        (said,) = [line for line in lines(server.log) if line["event"].startswith("ready: ")]
        assert said["event"] == f"ready: 2 models on {server.url}"
        assert (said["level"], said["models"], said["urls"]) == ("info", 2, [server.url])
        if workers == 1:  # others write their own lines, when they come to it
            assert lines(server.log)[-1] == said
            assert (said["default"], said["failed"]) == ("concrete-mlp", ["broken"])
        assert server.client.get(said["page"].removeprefix(server.url)).status_code == 200
        assert server.client.get("/health/ready").status_code == 200
        assert server.stop() == 0


def test_a_start_is_told_on_a_terminal_as_it_is_to_machines(tmp_path: Path) -> None:
    models = put(tmp_path / "models", "concrete-mlp")
    with serving(models, tmp_path) as server:
        (ready,) = server.wait_for_log("ready: ")
        assert f"ready: 1 model on {server.url} " in ANSI.sub("", ready)
        told = [re.sub(r" .*", "", line.partition("] ")[2]) for line in ANSI.sub("", server.log).splitlines()]
        assert [word for word in told if word in ("loading", "model", "ready:")] == ["loading", "model", "ready:"]
        assert "listening" in told[: told.index("ready:")]


def test_compiling_is_told_when_it_begins_and_with_its_seconds_when_it_ends(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "fresh")
    with serving(tmp_path / "models", tmp_path, MCDROPOUT_LOG_FORMAT="json") as server:
        server.wait_for_log('"event": "compiling"')
        assert "compiled" not in [line["event"] for line in lines(server.log)]
        server.wait_until_ready()
        server.wait_for_log("ready: ")
        of_model = [line for line in lines(server.log) if line.get("model") == "fresh"]
        assert [line["event"] for line in of_model] == ["loading", "compiling", "compiled", "model ready"]
        assert 0.1 < of_model[2]["seconds"] <= of_model[3]["seconds"] < patience(60)


class Taken:
    """A port on which another listens."""

    def __enter__(self) -> str:
        self._listening = socket.create_server(("127.0.0.1", 0))
        return str(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listening.close()


@pytest.mark.parametrize("which", ["--port", "--admin-port", "--grpc-port"])
def test_a_port_in_use_ends_it_with_the_same_status_and_line_however_many_processes(which: str) -> None:
    said = []
    with Taken() as port:
        for workers in ("1", "2"):
            flags = ["--workers", workers, which, port, *(["--port", str(free_port())] if which != "--port" else [])]
            command = [str(MCDROPOUT), "serve", "--models", str(MODELS), "--log-format", "json", *flags]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=patience(60))
            assert (ended.returncode, ended.stdout) == (1, "")
            (line,) = lines(ended.stderr)
            assert ended.stderr.count("\n") == 1
            said.append({name: value for name, value in line.items() if name != "timestamp"})
    assert said[0] == said[1]
    assert (said[0]["event"], said[0]["port"]) == ("cannot listen", int(port))
    assert said[0]["error"] == "Address already in use; another host or port is accepted"


def test_a_default_that_nobody_named_is_told_and_is_no_other_where_its_bundle_is_broken(tmp_path: Path) -> None:
    models = put_broken(put(tmp_path / "models", "concrete-mlp", "tumour-mlp"), "aaa")
    with serving(models, tmp_path, MCDROPOUT_LOG_FORMAT="json") as server:
        server.wait_for_log("not ready: ")
        told = {line["event"]: line for line in lines(server.log)}
        assert told["default model"]["model"] == "aaa"
        assert "first of 3 by name; --default" in told["default model"]["because"]
        last = told["not ready: the default model 'aaa' does not serve"]
        assert last["level"] == "error"
        assert last["serving"] == ["concrete-mlp", "tumour-mlp"]
        assert "--default" in last["mends"]
        assert server.client.get("/health/ready").status_code == 503
        refused = server.client.post("/predict", content=BODY, headers=JSON)
        assert refused.status_code == 503
        assert "the default model 'aaa' does not serve" in refused.json()["detail"]
        assert server.client.post("/models/concrete-mlp/predict", content=BODY, headers=JSON).status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_where_no_model_could_be_loaded_and_none_can_be_mended_it_ends_and_says_why(
    tmp_path: Path, workers: int
) -> None:
    models = put_broken(put_broken(tmp_path / "models", "aaa"), "bbb")
    flags = "--workers", str(workers), "--log-format", "json"
    with serving(models, tmp_path, *flags, MCDROPOUT_ADMIN="false") as server:
        assert server.wait() == 2
        (said,) = [line for line in lines(server.log) if line["event"] == "nothing to serve"]
        assert "no model could be loaded: aaa: aaa/model.yaml: version: is missing" in said["error"]
        assert "bbb: bbb/model.yaml" in said["error"]
        assert "ready: " not in server.log


def mend_by_reload(client: Any) -> None:
    assert client.post("/models/concrete-mlp/reload").status_code == 200


@pytest.mark.parametrize(
    ("settings", "mend", "said"),
    [
        ({"MCDROPOUT_ADMIN": "true"}, mend_by_reload, "POST /models/{name}/reload"),
        ({"MCDROPOUT_ADMIN": "false", "MCDROPOUT_WATCH": "0.2"}, lambda _: None, "--watch"),
        ({"MCDROPOUT_WATCH": "0.2", "MCDROPOUT_WORKERS": "2"}, lambda _: None, "--watch"),
    ],
    ids=["admin", "watch", "watch-and-workers"],
)
def test_where_no_model_could_be_loaded_and_one_can_be_mended_it_goes_on(
    tmp_path: Path, settings: dict[str, str], mend: Callable[[Any], None], said: str
) -> None:
    models = put_broken(tmp_path / "models", "concrete-mlp")
    with serving(models, tmp_path, MCDROPOUT_LOG_FORMAT="json", **settings) as server:
        server.wait_for_log("not ready: no model serves")
        (told, *_) = [line for line in lines(server.log) if line["event"] == "not ready: no model serves"]
        assert "concrete-mlp/model.yaml: " in told["error"]
        assert said in told["mends"]
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/ready").status_code == 503
        shutil.rmtree(models / "concrete-mlp")
        put(models, "concrete-mlp")
        mend(server.client)
        server.wait_until_ready()
        assert server.client.post("/predict", content=BODY, headers=JSON).status_code == 200
        assert server.stop() == 0
