"""Which models a replica holds on Ray, by Ray's own multiplexing, whatever happens while they load."""

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.serve import multiplex

from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.registry import Change, Registry
from mcdropout.metrics import Metrics
from mcdropout.ray import placing
from mcdropout.ray.placing import Models
from tests.conftest import MODELS
from tests.patience import looping_until, patience, wait_until

OTHERS = ("mnist-cnn", "mnist-lstm", "mnist-mlp")


class Watched(Registry):
    """A registry that tells what it loads, and does so when it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Loading(), Metrics(), "concrete-mlp", preload=False)
        self.loads: list[str] = []
        self.may_load = threading.Event()
        self.may_load.set()

    def load(self, name: str) -> Change:
        self.loads.append(name)
        assert self.may_load.wait(patience(30))
        return super().load(name)

    @property
    def held(self) -> set[str]:
        return {name for name, entry in self.entries.items() if entry.model is not None} - {self.default}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    for name in ("concrete-mlp", *OTHERS):
        shutil.copytree(MODELS / name, tmp_path / "models" / name)
    context = SimpleNamespace(app_name="app", deployment="mcdropout", replica_id="r")
    monkeypatch.setattr(multiplex, "_get_internal_replica_context", lambda: context)
    monkeypatch.setattr(multiplex._ModelMultiplexWrapper, "_push_model_ids_info", lambda self: None)
    registry = Watched(tmp_path / "models")
    registry.start()
    wait_until(lambda: registry.begun)
    registry.loads.clear()
    yield registry
    registry.stop()


def run(registry: Registry, steps: Callable[[Models], Awaitable[None]], most: int = 2) -> None:
    async def main() -> None:
        await steps(Models(registry, most))

    asyncio.run(main())


def test_models_come_and_the_one_not_asked_for_longest_goes(registry: Watched) -> None:
    async def steps(models: Models) -> None:
        for name in ("mnist-cnn", "mnist-lstm", "mnist-cnn", "concrete-mlp", "none", "../concrete-mlp"):
            await models.place(name)
        assert registry.held == {"mnist-cnn", "mnist-lstm"}
        await models.place("mnist-mlp")
        assert registry.held == {"mnist-cnn", "mnist-mlp"}
        await models.place("mnist-lstm")
        assert registry.held == {"mnist-lstm", "mnist-mlp"}
        assert registry.loads == ["mnist-cnn", "mnist-lstm", "mnist-mlp", "mnist-lstm"]

    run(registry, steps)


def test_who_gives_up_while_a_model_loads_ends_that_for_nobody_and_it_counts(registry: Watched) -> None:
    async def steps(models: Models) -> None:
        registry.may_load.clear()
        first, second = (asyncio.create_task(models.place("mnist-cnn")) for _ in range(2))
        await looping_until(lambda: registry.loads)
        first.cancel()
        await asyncio.sleep(0.05)
        registry.may_load.set()
        await second
        assert first.cancelled()
        assert registry.held == {"mnist-cnn"}
        for name in ("mnist-lstm", "mnist-mlp"):
            await models.place(name)
        assert registry.held == {"mnist-lstm", "mnist-mlp"}
        assert registry.loads.count("mnist-cnn") == 1

    run(registry, steps)


def test_a_model_that_is_refused_is_tried_once_for_all_that_wait_and_again_later(
    registry: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = registry.folder / "mnist-cnn" / "model.yaml"
    good = manifest.read_text()
    manifest.write_text("name: mnist-cnn")

    async def steps(models: Models) -> None:
        await asyncio.gather(*(models.place("mnist-cnn") for _ in range(5)))
        await models.place("mnist-cnn")
        entry = registry.entry("mnist-cnn")
        assert entry is not None
        assert entry.state == "failed"
        assert registry.loads == ["mnist-cnn"]
        manifest.write_text(good)
        monkeypatch.setattr(placing, "_TRY_AGAIN_SECONDS", 0.0)
        await models.place("mnist-cnn")
        assert registry.held == {"mnist-cnn"}

    run(registry, steps)


def test_a_model_that_somebody_else_unloaded_is_loaded_again(registry: Watched) -> None:
    async def steps(models: Models) -> None:
        await models.place("mnist-cnn")
        registry.unload("mnist-cnn")
        await models.place("mnist-cnn")
        assert registry.held == {"mnist-cnn"}

    run(registry, steps)


def test_a_bundle_that_came_after_the_start_is_found(registry: Watched) -> None:
    async def steps(models: Models) -> None:
        await models.place("mnist-vit")
        assert registry.entry("mnist-vit") is None
        shutil.copytree(MODELS / "mnist-vit", registry.folder / "mnist-vit")
        await models.place("mnist-vit")
        assert registry.held == {"mnist-vit"}

    run(registry, steps)


def test_a_request_waits_for_a_model_for_a_while_only(registry: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_WAIT_SECONDS", 0.2)

    async def steps(models: Models) -> None:
        registry.may_load.clear()
        await asyncio.wait_for(models.place("mnist-cnn"), patience(5))
        assert registry.held == set()
        monkeypatch.setattr(placing, "_WAIT_SECONDS", patience(30))
        registry.may_load.set()
        await models.place("mnist-cnn")
        assert registry.held == {"mnist-cnn"}
        assert registry.loads == ["mnist-cnn"]

    run(registry, steps)
