"""Models that are loaded when they are asked to be, and not at the start."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.registry import ConflictError, Registry
from mcdropout.catalogue.watch import Watch
from mcdropout.metrics import Metrics
from tests.conftest import MODELS
from tests.patience import wait_until
from tests.servers import serving

_NAMES = ("concrete-mlp", "mnist-mlp", "mnist-cnn")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in _NAMES:
        shutil.copytree(MODELS / name, tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.fixture
def registry(models: Path) -> Iterator[Registry]:
    """Of these models, the default one loaded."""
    registry = Registry(models, Loading(), Metrics(), "mnist-mlp", preload=False)
    registry.start()
    wait_until(lambda: registry.begun)
    yield registry
    registry.stop()


def states(registry: Registry) -> dict[str, str]:
    return {name: entry.state for name, entry in registry.entries.items()}


def test_the_default_alone_is_loaded_and_others_come_and_go(registry: Registry) -> None:
    assert registry.ready
    assert states(registry) == {"mnist-mlp": "ready", "mnist-cnn": "unloaded", "concrete-mlp": "unloaded"}
    registry.load("mnist-cnn")
    assert states(registry)["mnist-cnn"] == "ready"
    registry.unload("mnist-cnn")
    assert states(registry)["mnist-cnn"] == "unloaded"
    with pytest.raises(ConflictError, match="unloaded already"):
        registry.unload("concrete-mlp")


def test_a_bundle_that_is_new_in_a_watched_folder_is_known_and_not_loaded(registry: Registry, models: Path) -> None:
    watch = Watch(registry, 1.0)
    watch.look()
    shutil.copytree(MODELS / "mnist-lstm", models / "mnist-lstm")
    for _ in range(3):
        watch.look()
    assert states(registry)["mnist-lstm"] == "unloaded"
    registry.load("mnist-lstm")
    watch.look()
    assert states(registry)["mnist-lstm"] == "ready"


def test_a_server_says_that_a_model_was_not_loaded_and_loads_it_when_asked_to(models: Path, tmp_path: Path) -> None:
    settings = {"MCDROPOUT_PRELOAD": "false", "MCDROPOUT_DEFAULT": "mnist-mlp"}
    with serving(models, tmp_path, **settings) as server:
        server.wait_until_ready()
        ask = {"inputs": [0.0] * 8}
        response = server.client.post("/models/concrete-mlp/predict", json=ask)
        assert response.status_code == 404
        assert "not loaded yet" in response.json()["detail"]
        assert 'mcdropout_model_ready{model="concrete-mlp"}' not in server.client.get("/metrics").text
        assert server.client.post("/models/concrete-mlp/load").status_code == 200
        assert server.client.post("/models/concrete-mlp/predict", json=ask).status_code == 200
