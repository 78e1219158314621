"""`mcdropout inspect`: what it tells of bundles and of a user's own function, and its exit status."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mcdropout.cli import app
from tests.bundles import TEN_WORDS, write_bundle
from tests.exporting import export_quickly
from tests.patience import patience

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def inspect_here(folder, monkeypatch):
    """The same in this process, where PyTorch is imported already."""
    export_quickly()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("mcdropout.log.configure", lambda *_: None)  # which is for a whole process
    monkeypatch.setattr("mcdropout.engine.inspection._TIMED_SECONDS", 0.0)  # each is timed once
    return lambda *arguments: CliRunner().invoke(app, ["inspect", *arguments])


def inspect(*arguments, folder=REPOSITORY):
    command = [str(Path(sys.executable).parent / "mcdropout"), "inspect", *map(str, arguments)]
    wide = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patience(300), env=wide)


NETWORKS = """
    import threading

    import torch
    from torch import nn
    from mcdropout.engine import Selection

    def sound():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)), torch.rand(3, 4)

    def doubtful():
        network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.Linear(8, 1))
        return network, torch.rand(3, 4), {"task": "regression", "selection": Selection(p={"1": 0.25})}

    def added():
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        return network, torch.rand(3, 4), {"selection": Selection(add={"1": 0.25})}

    def without():
        return nn.Linear(4, 3), torch.rand(3, 4)

    def leaves_a_thread():
        threading.Thread(target=threading.Event().wait).start()
        return sound()

    def leaves_a_thread_without():
        threading.Thread(target=threading.Event().wait).start()
        return without()

    def wrong():
        return 3

    def broken():
        raise RuntimeError("no such file")

    def leaving():
        raise SystemExit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    (folder / "networks.py").write_text(textwrap.dedent(NETWORKS))
    return folder


def test_a_bundle_is_told_as_tables():
    done = inspect("models/mnist-cnn", "models/mnist.py")
    assert done.returncode == 0, done.stderr
    assert "mnist-cnn: split program on onnx (cpu)" in done.stdout
    for told in (
        "head.3",
        "element",
        "0.5",
        "once a row",
        "once a pass",
        "50 passes cost",
        "equals eval mode",
        "entropy",
    ):
        assert told in done.stdout
    assert "models/mnist.py is a file, no bundle's folder: left out" in done.stderr


def test_findings_and_settings_of_a_users_function_are_told_as_json(inspect_here):
    done = inspect_here("networks:sound", "networks:doubtful", "--format", "json", "--passes", "20")
    assert done.exit_code == 0, done.stderr
    sound, doubtful = json.loads(done.stdout)
    assert (sound["name"], sound["error"], sound["findings"]) == ("networks:sound", None, [])
    assert sound["cost"] == {
        "share_once": pytest.approx(4 / 7),
        "passes": 20,
        "in_deterministic_passes": pytest.approx(4 / 7 + 20 * 3 / 7),
    }
    assert sound["measured"]["seconds"] > 0
    assert sound["statistics"][0] == {"name": "label", "description": "The most probable class.", "unit": None}
    assert [statistic["name"] for statistic in doubtful["statistics"]][-1] == "quantiles"
    assert all(check["passed"] for check in sound["program"]["checks"])
    assert [(site["path"], site["p"], site["on"]) for site in doubtful["sites"]] == [
        ("1", 0.25, True),
        ("3", 0.0, False),
    ]
    assert {finding["code"] for finding in doubtful["findings"]} == {"dropout-before-batch-norm", "off"}


def test_dropout_that_was_added_is_marked_in_tables_and_json(inspect_here):
    done = inspect_here("networks:added")
    assert "added: the network was not trained with it" in done.stdout
    assert "arXiv 2302.02924" in " ".join(done.stdout.split())
    (document,) = json.loads(inspect_here("networks:added", "--format", "json").stdout)
    assert [(site["path"], site["injected"]) for site in document["sites"]] == [("1", True)]
    assert [(finding["code"], finding["site"]) for finding in document["findings"]] == [("added-dropout", "1")]


def test_a_refused_network_is_an_error_and_those_beside_it_are_told_all_the_same(inspect_here):
    done = inspect_here("networks:without", "networks:sound")
    assert done.exit_code == 1
    assert "networks:without: refused" in done.stdout
    assert "no dropout to switch on" in done.stdout
    assert "networks:sound: split program" in done.stdout


def test_a_bundle_that_would_not_serve_is_refused_by_who_inspects_it(inspect_here, tmp_path):
    """Its examples run, and the values that warm it up do not fit, or a bound does not."""
    large = write_bundle(tmp_path, "large", input={"shape": [4], "minimum": -3.4e38, "maximum": 3.4e38})
    words = {"name": "input", "shape": [4], "dtype": "int64", "minimum": 0, "maximum": 10}
    bound = write_bundle(tmp_path, "bound", TEN_WORDS, input=words)
    (bound / "example.json").write_text('{"inputs": [[1, 2, 3, 4]]}')
    done = inspect_here(str(large), str(bound), "--format", "json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert "NaN or infinity" in first["error"]
    assert "has the maximum 10; the network takes 9 or less" in second["error"]


def test_what_is_no_network_is_an_error_that_says_what_would_be_accepted(inspect_here):
    wrong = {
        "networks:wrong": "returns int; (network, example_inputs) is accepted",
        "networks:broken": "cannot be called: RuntimeError: no such file",
        "networks:leaving": "cannot be called: SystemExit: 0",
        "networks:missing": "has no attribute 'missing'",
        "nowhere:network": "No module named 'nowhere'",
        "nowhere": "there is no nowhere; a bundle's folder, which holds a model.yaml, is accepted",
        ".": "model.yaml",
    }
    done = inspect_here(*wrong, "--format", "json")
    assert done.exit_code == 1
    for told, document in zip(wrong.values(), json.loads(done.stdout), strict=True):
        assert told in document["error"]
    alone = inspect_here("networks.py", "--format", "json")
    assert alone.exit_code == 1
    assert "networks.py is a file; a bundle's folder, which" in alone.stdout
    assert "networks.py:function, which makes a network, can be inspected" in alone.stdout


def test_a_function_is_found_in_a_file_wherever_that_lies(inspect_here, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = inspect_here(f"{folder / 'networks.py'}:sound", "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["error"] is None


def test_it_ends_though_a_network_has_left_a_thread_running(folder):
    found = inspect("networks:leaves_a_thread", folder=folder)
    assert found.returncode == 0, found.stderr
    assert "split program" in found.stdout
    refused = inspect("networks:leaves_a_thread_without", folder=folder)
    assert refused.returncode == 1
    assert "no dropout" in refused.stdout
