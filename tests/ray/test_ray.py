"""Ray Serve: the same app on several replicas gives one process's answers, and outlives a replica."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from mcdropout.catalogue.manifest import BundleError
from mcdropout.ray import Options, app
from mcdropout.ray.routing import ByModel, model_named
from mcdropout.ray.scaling import ByQueueRows
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.rays import OnRay, Retrying, on_ray
from tests.servers import ROOT, Server

_ASKED = ("mnist-cnn", "mnist-mlp", "mnist-vit")


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    options = {"models": str(MODELS), "default": "mnist-cnn", "min_replicas": 2, "max_replicas": 3, "max_models": 1}
    options |= {"num_cpus": 0.5, "upscale_delay_s": 1.0, "rows_per_replica": 64}
    often = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
    with on_ray(tmp_path_factory.mktemp("ray"), cpus=2, environment=often, **options) as service:
        service.wait_for_replicas(2)
        yield service


def example(model: str) -> Any:
    return json.loads((MODELS / model / "example.json").read_text())


def predicted(client: httpx.Client, model: str, **query: Any) -> dict[str, Any]:
    response = client.post(f"/models/{model}/predict", params=query, json=example(model))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.wide
@pytest.mark.parametrize("model", _ASKED)
@pytest.mark.parametrize("mc", [0, 50, "auto"])
def test_answers_are_those_of_a_single_process(ray: OnRay, server: Server, model: str, mc: int | str) -> None:
    for seed in range(4):  # whichever replica it falls to
        ours, theirs = (predicted(one.client, model, mc=mc, seed=seed) for one in (ray, server))
        assert ours["seed"] == theirs["seed"] == seed
        for mine, its in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert mine.keys() == its.keys()
            assert mine["label"] == its["label"]
            for name in mine.keys() - {"label"}:
                if mine[name] is None:
                    assert its[name] is None
                else:
                    np.testing.assert_allclose(mine[name], its[name], rtol=0, atol=1e-6, err_msg=name)


def test_answers_carry_one_request_id_and_errors_are_the_apps(ray: OnRay) -> None:
    response = ray.client.post("/predict", json={"inputs": "?"}, headers={"X-Request-ID": "mine"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get_list("X-Request-ID") == ["mine"]
    assert ray.client.post("/models/none/predict", json={"inputs": []}).status_code == 404
    assert ray.client.post("/models/mnist-mlp/reload").status_code == 403


def states(ray: OnRay, model: str) -> set[str]:
    """In what state the replicas say that they have a model."""
    found = set()
    for _ in range(20):
        listed = ray.client.get("/models").json()["models"]
        found |= {entry["state"] for entry in listed if entry["name"] == model}
    return found


def test_a_model_is_loaded_where_it_is_asked_for_and_asked_for_where_it_is_loaded(ray: OnRay) -> None:
    predicted(ray.client, "mnist-spatial", mc=2)
    for _ in range(20):
        predicted(ray.client, "mnist-spatial", mc=2)
    assert states(ray, "mnist-spatial") == {"ready", "unloaded"}

    others = ("mnist-lstm", "mnist-resnet", "mnist-dropconnect")
    for model in others:
        predicted(ray.client, model, mc=2)
    # Two replicas hold no more than one each beside the default; which of them each came to is not said: maybe one to
    # which all did.
    wait_until(lambda: sum("ready" in states(ray, model) for model in ("mnist-spatial", *others)) in (1, 2))
    assert states(ray, "mnist-cnn") == {"ready"}


def test_ray_tells_what_each_replica_measures_as_its_prometheus_reads_it(ray: OnRay) -> None:
    def found() -> dict[str, set[str]]:
        predicted(ray.client, "mnist-cnn", mc=2)
        return _relabelled(httpx.get(ray.metrics).text)

    wait_until(lambda: len(found().get("mcdropout_requests_total", ())) >= 2, 60)
    series = found()
    for name in ("request_duration_seconds_bucket", "queue_rows", "predictive_entropy_nats_bucket", "model_ready"):
        assert series[f"mcdropout_{name}"] == series["mcdropout_requests_total"]


def _relabelled(text: str) -> dict[str, set[str]]:
    """Which replicas tell each series, under the names that the scrape configuration gives them."""
    (job,) = yaml.safe_load((ROOT / "deploy" / "ray" / "prometheus.yml").read_text())["scrape_configs"]
    keep, rename, instance, _ = job["metric_relabel_configs"]
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        name = line.partition("{")[0]
        if re.fullmatch(keep["regex"], name):
            (who,) = re.findall(rf'{instance["source_labels"][0]}="([^"]*)"', line)
            found.setdefault(re.fullmatch(rename["regex"], name)[1], set()).add(who)  # type: ignore[index]
    return found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_prometheus_takes_the_configuration_and_its_rules_do_what_their_tests_say() -> None:
    folder = ROOT / "deploy" / "ray"
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "tests/alerts.yml"]):
        done = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_replica_is_replaced_and_no_request_fails_that_is_tried_again(ray: OnRay) -> None:
    ray.wait_for_replicas(2)
    before = ray.replicas
    body = (MODELS / "mnist-cnn" / "example.json").read_bytes()
    clients = [Retrying(ray, "/predict?mc=20", body) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: min(client.answered for client in clients) > 5)
        ray.kill_one(within=60)
    finally:
        for client in clients:
            client.stop()
    assert sum(client.failed for client in clients) == 0
    assert sum(client.answered for client in clients) > 20
    assert len(set(ray.replicas) - set(before)) == 1


def test_rows_that_wait_bring_another_replica(ray: OnRay) -> None:
    ray.wait_for_replicas(2)
    body = {"inputs": np.zeros((100, 1, 28, 28)).tolist()}
    stopped, statuses = threading.Event(), set[int]()

    def ask() -> None:
        with httpx.Client(base_url=ray.url, timeout=patience(60)) as client:
            while not stopped.is_set():
                statuses.add(client.post("/models/mnist-cnn/predict?mc=1000", json=body).status_code)

    with ExitStack() as stack:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(stopped.set)
        ray.wait_for_replicas(3, within=60)
    assert statuses == {200}


# What a replica does, in a process of its own: it sets that up for good.
STARTING = """
import asyncio, sys
from mcdropout.ray.options import Options
from mcdropout.ray.replica import Replica

async def main():
    part = Replica(Options(models=sys.argv[1]))
    built = await part.__serve_build_asgi_app__()
    print("ready", part._services.registry.ready)
    said, told = asyncio.Queue(), asyncio.Queue()
    await said.put({"type": "lifespan.shutdown"})
    await built({"type": "lifespan"}, said.get, told.put)
    print((await told.get())["type"])

asyncio.run(main())
"""


def test_a_replica_starts_once_its_default_model_is_ready_and_says_why_where_it_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / "mnist-vit", tmp_path / "models" / "mnist-vit").parent
    command = [sys.executable, "-c", STARTING, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(100))
    assert done.stdout.splitlines() == ["ready True", "lifespan.shutdown.complete"], done.stderr
    (folder / "mnist-vit" / "model.yaml").write_text("name: mnist-vit")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(100))
    assert done.returncode == 1
    assert re.search(r"RuntimeError: mnist-vit: .*version", done.stderr)
    assert not done.stdout


def replica(name: str, *models: str) -> Any:
    return SimpleNamespace(replica_id=name, multiplexed_model_ids=set(models))


def request(path: str) -> Any:
    """One that a proxy took."""
    handed = pickle.dumps(SimpleNamespace(asgi_scope={"path": path}))
    return SimpleNamespace(args=[handed], metadata=SimpleNamespace(is_http_request=True))


def chosen(
    path: str, *replicas: Any, router: ByModel | None = None, queued: dict[str, int] | None = None
) -> list[set[str]]:
    """Every replica that may be chosen, in the order of preference."""
    if router is None:
        router = ByModel.__new__(ByModel)
        router.initialize_state(default="usual")
    router._replica_queue_len_cache = queued or {}  # type: ignore[assignment]
    found: list[set[str]] = []
    for _ in range(100):
        coroutine = router.choose_replicas(list(replicas), request(path))
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        for index, some in enumerate(ended.value.value):
            assert len(some) <= 2
            if index == len(found):
                found.append(set())
            found[index] |= {one.replica_id for one in some}
    return found


def test_requests_go_where_their_model_is_then_where_there_are_the_fewest() -> None:
    replicas = replica("a", "x", "y"), replica("b", "x"), replica("c"), replica("d", "z"), replica("e")
    everywhere = {"a", "b", "c", "d", "e"}
    assert chosen("/models/x/predict", *replicas) == [{"a", "b"}, {"c", "e"}, everywhere]
    assert chosen("/models/y", *replicas)[0] == {"a"}
    assert chosen("/models/new/predict", *replicas) == [{"c", "e"}, everywhere]
    assert chosen("/models/usual/predict", *replicas) == [everywhere]
    assert chosen("/predict", *replicas) == [everywhere]
    assert model_named({"path": "/models/x/reload"}) is None
    assert model_named({"path": "/mc/models/x/predict", "root_path": "/mc"}) == "x"
    assert model_named({"path": "/v2/models/x/infer"}) == model_named({"path": "/v2/models/x/versions/1/infer"}) == "x"


def test_a_model_whose_replicas_are_busy_spreads_to_others() -> None:
    replicas = replica("a", "x"), replica("b", "x"), replica("c")
    assert chosen("/models/x", *replicas, queued={"a": 33, "b": 32})[0] == {"a", "b"}
    assert chosen("/models/x", *replicas, queued={"a": 33, "b": 33})[:2] == [{"c"}, {"a", "b"}]
    assert chosen("/models/x", *replicas[:2], queued={"a": 33, "b": 33})[0] == {"a", "b"}


def test_a_model_is_asked_for_again_where_it_was_just_asked_for() -> None:
    router = ByModel.__new__(ByModel)
    router.initialize_state()
    replicas = replica("a"), replica("b"), replica("c", "y")
    for number in range(2000):  # names that there are not do not pile up
        router.on_request_routed(request(f"/models/{number}/predict"), "a", None)  # type: ignore[arg-type]
    assert len(router._sent) == 1000
    router.on_request_routed(request("/models/new/predict"), "b", None)  # type: ignore[arg-type]
    assert chosen("/models/new", *replicas, router=router)[0] == {"b"}
    router.on_request_routed(request("/models/y/predict"), "b", None)  # type: ignore[arg-type]
    assert chosen("/models/y", *replicas, router=router)[0] == {"c"}  # as Ray tells by now


def test_there_are_as_many_replicas_as_the_rows_ask_for() -> None:
    def wanted(*rows: float, queued: float = 0.0) -> int:
        context = SimpleNamespace(
            aggregated_metrics={"queue_rows": dict(enumerate(rows))}, total_queued_requests=queued
        )
        return ByQueueRows(rows_per_replica=100)(context)[0]  # type: ignore[arg-type]

    assert wanted() == wanted(0, 0) == 0
    assert wanted(90, 110) == 2
    assert wanted(90, 111) == wanted(90, 110, queued=1) == 3


def test_replicas_take_shares_of_gpus() -> None:
    deployment = app(Options(models=str(MODELS), num_gpus=0.5, num_cpus=4, device="cuda"))._bound_deployment
    taken = deployment.ray_actor_options
    assert (taken["num_cpus"], taken["num_gpus"]) == (4, 0.5)
    (options,) = deployment.init_args
    assert options.service_settings().device == "cuda"


def test_the_config_for_a_cluster_is_as_ray_and_the_application_take_it() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text()))
    (application,) = config.applications
    assert application.import_path == "mcdropout.ray:app"
    assert Options.model_validate(application.args).min_replicas == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_replica": 2},
        {"num_gpus": -1},
        {"num_gpus": 1.5},
        {"rows_per_replica": 0},
        {"min_replicas": 11},
        {"device": "cuda"},
        {"settings": {"admin": True}},
    ],
)
def test_options_that_there_are_not_or_that_do_not_agree_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Options.model_validate(wrong)


def test_a_folder_without_the_models_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        app(Options(models=str(tmp_path)))
    with pytest.raises(BundleError, match="'none'"):
        app(Options(models=str(MODELS), default="none"))


def test_all_replicas_are_told_the_same_folder_and_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODELS.parent)
    (options,) = app(Options(models=MODELS.name))._bound_deployment.init_args
    assert (options.models, options.default) == (str(MODELS), "concrete-mlp")
