"""Models are loaded, reloaded and unloaded while others, and their own older versions, answer."""

import asyncio
import gc
import os
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from mcdropout.api import Services, create_app
from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.provenance import stale_parts
from mcdropout.catalogue.registry import ConflictError, Entry, RefusedError, Registry, UnknownModelError
from mcdropout.catalogue.stamps import stamps_of
from mcdropout.catalogue.watch import Watch
from mcdropout.metrics import Metrics
from mcdropout.settings import Settings
from tests.bundles import network_of, write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.servers import Server, serving

ROW = [0.1, -0.2, 0.3, 0.4]
ASK = {"inputs": ROW}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of a bundle, which differ in their weights, compiled."""
    place = tmp_path_factory.mktemp("versions")
    made = {version: write_bundle(place / version, "small", version=version) for version in ("1", "2")}
    network = network_of(made["2"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1.5
    save_file(network.state_dict(), made["2"] / "weights.safetensors")
    for folder in made.values():
        shutil.rmtree(compiled(folder) / "__pycache__", ignore_errors=True)
    return made


def put(version: Path, folder: Path, **fields: object) -> Path:
    """Copy a version of the bundle over what a folder holds, file by file, as `cp -r` does."""
    shutil.copytree(version, folder, dirs_exist_ok=True)
    change(folder, name=folder.name, **fields)
    return folder


def change(folder: Path, **fields: object) -> None:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


@contextmanager
def begun(models: Path, loading: Loading | None = None) -> Iterator[Registry]:
    """A registry in this process, whose first models are loaded."""
    registry = Registry(models, loading or Loading(), Metrics())
    registry.start()
    try:
        wait(lambda: registry.begun)
        yield registry
    finally:
        registry.stop()


def wait(until: Callable[[], Any]) -> None:
    wait_until(until, 60.0)


def entry(registry: Registry, name: str) -> Entry:
    found = registry.entry(name)
    assert found is not None
    return found


def answer(entry: Entry) -> Any:
    assert entry.model is not None
    return entry.model.engine.predict([ROW], 20, 1).mean.tolist()


def post(server: Server, path: str, status: int = 200) -> dict[str, Any]:
    response = server.client.post(path)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    return content


def predicted(server: Server, name: str) -> tuple[str, list[float]]:
    """The version that answers, and its answer."""
    response = server.client.post(f"/models/{name}/predict?mc=20&seed=1", json=ASK)
    assert response.status_code == 200, response.text
    return response.json()["version"], response.json()["predictions"][0]["mean"]


def described(server: Server, name: str) -> dict[str, Any]:
    content: dict[str, Any] = server.client.get(f"/models/{name}").json()
    return content


def series(server: Server, text: str) -> list[str]:
    return [line for line in server.client.get("/metrics").text.splitlines() if text in line]


@pytest.fixture(scope="module")
def models(versions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `server` serves."""
    folder = tmp_path_factory.mktemp("served") / "models"
    for name in ("always", "small", "other"):
        put(versions["1"], folder / name)
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server, ready."""
    with serving(models, tmp_path_factory.mktemp("log"), "--default", "always") as running:
        running.wait_until_ready()
        yield running


def test_reloads_under_load_fail_no_request_and_each_answer_is_of_one_version(
    server: Server, models: Path, versions: dict[str, Path]
) -> None:
    wanted = {
        version: load(folder, Loading()).engine.predict([ROW], 20, 1).mean[0] for version, folder in versions.items()
    }
    over = threading.Event()

    def ask(_: int) -> list[tuple[str, list[float]]]:
        found = []
        with httpx.Client(base_url=server.url, timeout=patience(60)) as client:
            while not over.is_set():
                response = client.post("/models/small/predict?mc=20&seed=1", json=ASK)
                assert response.status_code == 200, response.text
                found.append((response.json()["version"], response.json()["predictions"][0]["mean"]))
                assert client.get("/health/ready").json()["models"]["small"] == "ready"
        return found

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, number) for number in range(8)]
        try:
            for version, before in [("2", "1"), ("1", "2")] * 5:
                put(versions[version], models / "small")
                told = post(server, "/models/small/reload")
                assert (told["model"], told["previous_version"], told["version"]) == ("small", before, version)
                assert told["seconds"] > 0
                assert predicted(server, "small")[0] == version
        finally:
            over.set()
        answers = [one for future in asking for one in future.result()]
    assert {version for version, _ in answers} == {"1", "2"}
    for version, mean in answers:
        np.testing.assert_allclose(mean, wanted[version], atol=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "model.yaml").write_text("name: [small"), "cannot be read as YAML"),
        (lambda folder: (folder / "model.yaml").unlink(), "model.yaml"),
        (lambda folder: change(folder, labels=["a", "b"]), "the network's 3 classes"),
        (lambda folder: change(folder, name="renamed"), "'renamed'; the folder's name"),
        (
            lambda folder: (folder / "network.py").write_text(
                (folder / "network.py").read_text().replace("nn.Dropout(0.5)", "nn.Identity()")
            ),
            "no dropout",
        ),
        (lambda folder: os.truncate(folder / "weights.safetensors", 100), "cannot be read as weights"),
    ],
)
def test_a_bad_reload_is_refused_and_leaves_the_old_version_serving(
    server: Server, models: Path, versions: dict[str, Path], spoil: Callable[[Path], None], told: str
) -> None:
    put(versions["1"], models / "small")
    post(server, "/models/small/reload")
    version, mean = predicted(server, "small")
    refused = series(server, 'reloads_total{model="small",outcome="refused"}')

    put(versions["2"], models / "small")
    spoil(models / "small")
    assert told in post(server, "/models/small/reload", 422)["detail"]
    assert predicted(server, "small") == (version, pytest.approx(mean, rel=1e-12))  # however its passes are cut
    about = described(server, "small")
    assert (about["state"], about["version"], about["error"]) == ("ready", "1", None)
    assert told in about["last_error"]
    assert series(server, 'model_ready{model="small"}') == ['mcdropout_model_ready{model="small"} 1.0']
    assert series(server, 'reloads_total{model="small",outcome="refused"}') != refused

    put(versions["2"], models / "small")
    assert post(server, "/models/small/reload")["version"] == "2"
    assert described(server, "small")["last_error"] is None


def test_a_new_bundle_is_loaded_and_one_that_is_unloaded_answers_no_more(
    server: Server, models: Path, versions: dict[str, Path]
) -> None:
    assert "in " + str(models) in post(server, "/models/late/load", 404)["detail"]
    put(versions["2"], models / "late")
    assert server.client.get("/models/late").status_code == 404
    told = post(server, "/models/late/load")
    assert (told["previous_version"], told["version"]) == (None, "2")
    assert predicted(server, "late")[0] == "2"
    assert "loaded already" in post(server, "/models/late/load", 409)["detail"]

    told = post(server, "/models/late/unload")
    assert (told["previous_version"], told["version"]) == ("2", None)
    refused = server.client.post("/models/late/predict", json=ASK)
    assert refused.status_code == 404
    assert "unloaded" in refused.json()["detail"]
    assert described(server, "late")["state"] == "unloaded"
    assert server.client.get("/health/ready").json()["models"]["late"] == "unloaded"
    assert series(server, 'model_ready{model="late"}') == []
    for path in ("/models/late/unload", "/models/late/reload"):
        assert "is unloaded" in post(server, path, 409)["detail"]

    assert post(server, "/models/late/load")["version"] == "2"
    assert predicted(server, "late")[0] == "2"
    assert series(server, 'model_ready{model="late"}') == ['mcdropout_model_ready{model="late"} 1.0']
    shutil.rmtree(models / "late")
    assert predicted(server, "late")[0] == "2"
    post(server, "/models/late/unload")
    assert server.client.post("/models/late/predict", json=ASK).status_code == 404
    assert server.client.get("/models/late").status_code == 404
    assert series(server, 'model="late"') == []


def test_one_that_failed_is_loaded_once_it_is_mended(server: Server, models: Path, versions: dict[str, Path]) -> None:
    put(versions["1"], models / "mended", labels=["a"])
    assert "3 classes" in post(server, "/models/mended/load", 422)["detail"]
    about = described(server, "mended")
    assert about["state"] == "failed"
    assert "3 classes" in about["error"]
    assert server.client.post("/models/mended/predict", json=ASK).status_code == 503
    assert server.client.get("/health/ready").status_code == 200
    assert series(server, 'model_ready{model="mended"}') == ['mcdropout_model_ready{model="mended"} 0.0']
    put(versions["1"], models / "mended", labels=["a", "b", "c"])
    assert post(server, "/models/mended/load")["version"] == "1"
    assert described(server, "mended")["error"] is None
    assert predicted(server, "mended")[0] == "1"


def test_the_default_model_is_reloaded_but_not_unloaded(server: Server) -> None:
    assert "default" in post(server, "/models/always/unload", 409)["detail"]
    assert post(server, "/models/always/reload")["version"] == "1"
    assert server.client.post("/predict", json=ASK).status_code == 200


@pytest.mark.parametrize("how", ["load", "reload", "unload"])
@pytest.mark.parametrize(
    "name", ["..%2Foutside", "..", "%2e%2e", ".hidden", "..%5Coutside", "small%00", "small%0A", "x" * 101, "%C3%A9"]
)
def test_a_name_that_is_no_models_leads_nowhere(
    server: Server, models: Path, versions: dict[str, Path], name: str, how: str
) -> None:
    for place in (models.parent / "outside", models / ".hidden"):
        if not place.exists():
            put(versions["1"], place)
    before = server.client.get("/models").json()
    # Written out, since a client would take the dots for the way up.
    url = httpx.URL(server.url).copy_with(raw_path=f"/models/{name}/{how}".encode())
    response = server.client.request("POST", url)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert server.client.get("/models").json() == before


def test_one_change_of_a_model_at_a_time_and_others_go_on_meanwhile(
    server: Server, models: Path, versions: dict[str, Path]
) -> None:
    put(versions["1"], models / "small")
    post(server, "/models/small/reload")
    shutil.rmtree(models / "small" / COMPILED)  # so that it takes some seconds
    change(models / "small", version="3")
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(httpx.post, f"{server.url}/models/small/reload", timeout=patience(60))
        wait(lambda: "compiling" in server.log.rsplit("model ready", 1)[-1])
        for how in ("reload", "load", "unload"):
            assert "is being reloaded" in post(server, f"/models/small/{how}", 409)["detail"]
        assert predicted(server, "small")[0] == "1"
        assert described(server, "small")["state"] == "ready"
        assert post(server, "/models/other/reload")["version"] == "1"
        assert not slow.done()
        assert slow.result().json()["version"] == "3"
    assert predicted(server, "small")[0] == "3"
    assert stale_parts(Bundle(models / "small")) == []


def test_a_page_of_another_site_may_not_change_models(server: Server) -> None:
    for origin, status in (("http://evil.example", 403), ("null", 403), (server.url, 200)):
        response = server.client.post("/models/other/reload", headers={"Origin": origin})
        assert response.status_code == status


def test_models_are_not_changed_over_http_where_the_operator_forbids_it(models: Path) -> None:
    app = create_app(Services.of(Settings(models=models, admin=False)))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.post(f"/models/small/{how}") for how in ("load", "reload", "unload")]

    for response in asyncio.run(ask()):
        assert response.status_code == 403
        assert "MCDROPOUT_ADMIN" in response.json()["detail"]


def test_a_server_that_stops_while_it_reloads_leaves_no_process_behind(
    versions: dict[str, Path], tmp_path: Path
) -> None:
    folder = put(versions["1"], tmp_path / "models" / "small")
    with serving(tmp_path / "models", tmp_path, MCDROPOUT_GRACE_SECONDS="1") as running:
        running.wait_until_ready()
        (folder / "network.py").write_text("import time\ntime.sleep(600)\n")
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(httpx.post, f"{running.url}/models/small/reload", timeout=patience(60))
            wait(lambda: children_of(running.process.pid))
            children = children_of(running.process.pid)
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < patience(10)
            assert isinstance(asked.exception(), httpx.TransportError) or asked.result().status_code >= 400
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_a_folder_that_is_watched_is_followed(versions: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("always", "small"):
        put(versions["1"], models / name)
    with serving(models, tmp_path, "--watch", "0.1") as running:
        running.wait_until_ready()
        put(versions["2"], models / "small")
        put(versions["2"], models / "new")
        wait(lambda: described(running, "small")["version"] == "2")
        wait(lambda: described(running, "new").get("version") == "2")
        shutil.rmtree(models / "new")
        shutil.rmtree(models / "always")
        wait(lambda: running.client.get("/models/new").status_code == 404)
        wait(lambda: "bundle is gone" in running.log)
        assert running.client.post("/predict", json=ASK).json()["model"] == "always"
        assert running.client.get("/health/ready").json()["models"] == {"always": "ready", "small": "ready"}
        assert running.stop() == 0


class Loads:
    """The versions that a registry loaded, in order; what `Watch` is tested on."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        for how in ("load", "reload", "unload"):
            monkeypatch.setattr(registry, how, self._noting(getattr(registry, how), how))

    def _noting(self, function: Callable[[str], Any], how: str) -> Callable[[str], Any]:
        def noted(name: str) -> Any:
            self.seen.append(f"{how} {name}")
            return function(name)

        return noted


@pytest.fixture
def watched(
    versions: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Registry, Watch, list[str]]]:
    """A folder of two bundles, their registry, who watches it (looked at twice), and what it does from then on."""
    for name in ("always", "small"):
        put(versions["1"], tmp_path / "models" / name)
    with begun(tmp_path / "models") as registry:
        seen = Loads(registry, monkeypatch).seen
        watch = Watch(registry, 1.0)
        watch.look()
        watch.look()
        assert seen == []
        yield tmp_path / "models", registry, watch, seen


Watched = tuple[Path, Registry, Watch, list[str]]


def test_a_bundle_is_left_alone_until_two_looks_find_it_the_same(watched: Watched, versions: dict[str, Path]) -> None:
    models, registry, watch, seen = watched
    shutil.copy(versions["2"] / "model.yaml", models / "small")
    watch.look()
    shutil.copy(versions["2"] / "weights.safetensors", models / "small")
    watch.look()
    shutil.copytree(versions["2"] / COMPILED, models / "small" / COMPILED, dirs_exist_ok=True)
    watch.look()
    assert seen == []
    watch.look()
    assert seen == ["reload small"]
    assert entry(registry, "small").version == "2"
    watch.look()
    assert seen == ["reload small"]


def test_a_slow_copy_whose_compiled_part_comes_last_is_loaded_when_it_is_there(
    watched: Watched, versions: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is no PyTorch to compile with, of a model that serves and of one that is new."""

    def cannot(bundle: object, *_: object) -> None:
        raise BundleError("there is no PyTorch")

    monkeypatch.setattr("mcdropout.catalogue.loading.compile_bundle", cannot)
    models, registry, watch, seen = watched
    for name in ("small", "new"):
        shutil.copytree(versions["2"], models / name, ignore=shutil.ignore_patterns(COMPILED), dirs_exist_ok=True)
    if (models / "small" / COMPILED).is_dir():
        shutil.rmtree(models / "small" / COMPILED)
    change(models / "new", name="new")
    for _ in range(4):
        watch.look()
    assert (entry(registry, "small").version, entry(registry, "new").state) == ("1", "failed")
    tried = len(seen)
    for name in ("small", "new"):
        shutil.copytree(versions["2"] / COMPILED, models / name / COMPILED)
    for _ in range(3):
        watch.look()
    assert len(seen) == tried + 2
    assert entry(registry, "small").version == "2"


def test_what_holds_the_same_as_before_is_not_loaded_again(watched: Watched) -> None:
    models, _, watch, seen = watched
    os.utime(models / "small" / "weights.safetensors")
    (models / "small" / "__pycache__").mkdir()
    (models / "small" / "__pycache__" / "network.pyc").write_bytes(b"1")
    (models / "small" / ".hidden").write_text("1")
    (models / ".copying").mkdir()
    shutil.copy(models / "small" / "model.yaml", models / ".copying")
    shutil.rmtree(models / "small" / COMPILED)  # as though the server wrote it anew
    for _ in range(3):
        watch.look()
    assert seen == []


def test_a_bad_change_is_tried_once_and_a_good_one_after_it_loaded(watched: Watched, versions: dict[str, Path]) -> None:
    models, registry, watch, seen = watched
    change(models / "small", labels=["a"])
    for _ in range(4):
        watch.look()
    assert seen == ["reload small"]
    assert "3 classes" in (entry(registry, "small").last_error or "")
    assert entry(registry, "small").version == "1"
    put(versions["1"], models / "small")
    change(models / "small", labels=["a", "b", "c"])
    for _ in range(3):
        watch.look()
    assert seen == ["reload small"] * 2
    assert entry(registry, "small").last_error is None


def test_what_was_loaded_by_request_is_not_loaded_again_and_what_was_unloaded_stays_so(
    watched: Watched, versions: dict[str, Path]
) -> None:
    models, registry, watch, seen = watched
    put(versions["2"], models / "small")
    put(versions["2"], models / "new")
    registry.reload("small")
    registry.load("new")
    for _ in range(3):
        watch.look()
    assert seen == ["reload small", "load new"]
    registry.unload("new")
    change(models / "new", version="9")
    for _ in range(3):
        watch.look()
    assert entry(registry, "new").state == "unloaded"
    assert seen[2:] == ["unload new"]


def test_what_is_gone_is_unloaded_but_not_the_default_nor_everything(
    watched: Watched, versions: dict[str, Path]
) -> None:
    models, registry, watch, seen = watched
    shutil.rmtree(models / "small")
    watch.look()
    assert seen == []
    watch.look()
    assert registry.names == ["always"]
    models.rename(models.with_name("unmounted"))
    for _ in range(3):
        watch.look()
    assert entry(registry, "always").state == "ready"
    models.with_name("unmounted").rename(models)
    put(versions["2"], models / "small")
    for _ in range(2):
        watch.look()
    assert entry(registry, "small").version == "2"
    assert seen == ["unload small", "load small"]


def test_where_the_server_does_not_compile_a_bundle_is_read_again_once_somebody_else_did(
    versions: dict[str, Path], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    put(versions["1"], models / "small")
    shutil.rmtree(models / "small" / COMPILED)
    with begun(models, Loading(compiles=False)) as registry:
        watch = Watch(registry, 1.0)
        for _ in range(2):
            watch.look()
        assert "has to be compiled" in (entry(registry, "small").error or "")
        shutil.copytree(versions["1"] / COMPILED, models / "small" / COMPILED)
        for _ in range(2):
            watch.look()
        assert entry(registry, "small").state == "ready"


def test_200_reloads_leak_nothing_and_free_what_they_replace(versions: dict[str, Path], tmp_path: Path) -> None:
    put(versions["1"], tmp_path / "models" / "small")

    def held() -> tuple[int, int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), len(sys.modules)

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    with begun(tmp_path / "models") as registry:
        for number in range(200):
            if number == 20:
                before, used = held(), resident()
            model = entry(registry, "small").model
            assert model is not None
            old = weakref.ref(model.engine)
            del model
            registry.reload("small")
            assert old() is None
        # Fewer where what other tests left is collected meanwhile.
        assert all(now <= then for now, then in zip(held(), before, strict=True)), (held(), before)
        assert resident() - used < 20  # MiB; one that stays is some hundred KiB


def test_a_model_that_is_unloaded_is_freed_when_the_last_request_that_began_with_it_ends(
    versions: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("always", "small"):
        put(versions["1"], tmp_path / "models" / name)
    with begun(tmp_path / "models") as registry:
        in_flight = entry(registry, "small").model
        assert in_flight is not None
        old = weakref.ref(in_flight.engine)
        registry.unload("small")
        assert entry(registry, "small").model is None
        assert in_flight.engine.predict([ROW], 20, 1).mean.shape == (1, 3)
        del in_flight
        gc.collect()
        assert old() is None


def test_a_refusal_keeps_nothing_of_what_was_refused(versions: dict[str, Path], tmp_path: Path) -> None:
    folder = put(versions["1"], tmp_path / "models" / "small")
    with begun(tmp_path / "models") as registry:
        change(folder, labels=["a"])
        for number in range(30):
            with pytest.raises(RefusedError, match="3 classes"):
                registry.reload("small")
            if number == 10:
                before = len(os.listdir("/proc/self/fd")), threading.active_count()
        assert len(os.listdir("/proc/self/fd")) <= before[0]
        assert threading.active_count() <= before[1]


@pytest.mark.parametrize("name", ["mnist-lstm", "mnist-cnn"])
def test_a_bundle_that_is_overwritten_in_place_changes_no_answer(tmp_path: Path, name: str) -> None:
    shutil.copytree(MODELS / name, tmp_path / name)
    model = load(tmp_path / name, Loading(compiles=False))
    x = model.bundle.manifest.for_network(model.bundle.examples(1))
    before = model.engine.predict(x, 20, 1).mean
    data = tmp_path / name / COMPILED / "suffix.onnx.data"
    with data.open("r+b") as file:
        file.write(bytes(data.stat().st_size))
    assert (model.engine.predict(x, 20, 1).mean == before).all()
    os.truncate(data, 0)
    assert (model.engine.predict(x, 20, 1).mean == before).all()


def test_a_bundle_is_read_in_place_where_there_is_no_room_for_a_copy(
    versions: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mcdropout.catalogue.loading.shutil.copytree", full)
    assert load(versions["1"], Loading(compiles=False)).version == "1"


def test_a_file_that_is_replaced_while_it_is_compiled_is_refused_and_nothing_kept(
    versions: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(versions["1"], tmp_path / "small")
    shutil.rmtree(folder / COMPILED)

    def replaced_meanwhile(bundle: Bundle, into: Path, *_: object) -> None:
        shutil.copy(versions["2"] / "weights.safetensors", folder)
        shutil.copytree(versions["2"] / COMPILED, into, dirs_exist_ok=True)

    monkeypatch.setattr("mcdropout.catalogue.loading.compile_bundle", replaced_meanwhile)
    with pytest.raises(BundleError, match=r"weights\.safetensors changed while it was loaded"):
        load(folder, Loading())
    assert not (folder / COMPILED).exists()


def test_models_are_compiled_one_at_a_time_and_a_stop_ends_the_wait(
    versions: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("always", "one", "two"):
        put(versions["1"], tmp_path / "models" / name)
    running: list[str] = []
    most: list[int] = []
    go_on = threading.Event()

    def slow(bundle: Bundle, into: Path, limits: object, stop: threading.Event) -> None:
        running.append(bundle.manifest.name)
        most.append(len(running))
        while not go_on.wait(0.01):
            if stop.is_set():
                running.clear()
                raise BundleError("it was stopped")
        shutil.copytree(versions["1"] / COMPILED, into, dirs_exist_ok=True)
        running.remove(bundle.manifest.name)

    monkeypatch.setattr("mcdropout.catalogue.loading.compile_bundle", slow)
    with begun(tmp_path / "models") as registry, ThreadPoolExecutor() as threads:
        for name in ("one", "two"):
            shutil.rmtree(tmp_path / "models" / name / COMPILED)
        first = [threads.submit(registry.reload, name) for name in ("one", "two")]
        wait(lambda: running)
        time.sleep(0.3)
        assert len(running) == 1
        go_on.set()
        assert [future.result().version for future in first] == ["1", "1"]
        assert most == [1, 1]

        go_on.clear()
        for name in ("one", "two"):
            shutil.rmtree(tmp_path / "models" / name / COMPILED)
        waiting = [threads.submit(registry.reload, name) for name in ("one", "two")]
        wait(lambda: running)
        registry.stop()
        for future in waiting:
            with pytest.raises(ConflictError, match="the server is stopping"):
                future.result()
        assert entry(registry, "one").last_error is None
        with pytest.raises(ConflictError, match="the server is stopping"):
            registry.reload("always")


def test_what_happens_at_once_happens_one_after_another(versions: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("always", "small"):
        put(versions["1"], models / name)
    refusals: list[str] = []

    with begun(models) as registry, ThreadPoolExecutor(8) as threads:

        def any_of(number: int) -> None:
            how = (registry.reload, registry.unload, registry.load)[number % 3]
            try:
                how("small")
            except ConflictError as error:
                refusals.append(str(error))
            found = registry.entry("small")
            assert found is not None
            assert (found.state == "ready") == (found.model is not None)

        list(threads.map(any_of, range(150)))
        assert refusals
        assert set(registry.entries) == {"always", "small"}
        with pytest.raises(UnknownModelError, match="no model 'none'"):
            registry.reload("none")
    assert stamps_of(models / "small")
