"""The Kubernetes manifests: as the published schemas have them, and in agreement with the image and the service."""

import copy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml

from mcdropout.settings import Settings
from tests.servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.33"
Manifest = dict[str, Any]


def built(overlay: str) -> dict[str, Manifest]:
    """What `kubectl kustomize` makes of a folder, by kind, as far as these use it: resources, images and patches."""
    folder = FOLDER / overlay
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    made: dict[str, Manifest] = {}
    for resource in kustomization["resources"]:
        path = folder / resource
        read = built(path.resolve().name) if path.is_dir() else _by_kind(yaml.safe_load_all(path.read_text()))
        assert not made.keys() & read.keys()
        made |= read
    unknown = kustomization.keys() - {"apiVersion", "kind", "resources", "images", "patches"}
    assert not unknown
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        assert made[target["kind"]]["metadata"]["name"] == target["name"]
        made[target["kind"]] = jsonpatch.JsonPatch(yaml.safe_load(patch["patch"])).apply(made[target["kind"]])
    for image in kustomization["images"]:
        for container in _pod(made["Deployment"])["containers"]:
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    return made


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_kubectl_builds_what_is_checked_here(overlay: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / overlay)], capture_output=True, text=True, check=True)
    assert _by_kind(yaml.safe_load_all(done.stdout)) == built(overlay)


def _by_kind(manifests: Any) -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in manifests}


def _pod(deployment: Manifest) -> Manifest:
    pod: Manifest = deployment["spec"]["template"]["spec"]
    return pod


def checked(manifest: Manifest) -> None:
    """Raises where the schema that Kubernetes publishes has it otherwise."""
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_manifests_are_as_their_schemas_have_them(overlay: str) -> None:
    made = built(overlay)
    assert made.keys() == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }
    for kind, manifest in made.items():
        if kind != "ServiceMonitor":  # the operator's own, whose schema Kubernetes does not publish
            checked(manifest)
    assert made["ServiceMonitor"]["apiVersion"] == "monitoring.coreos.com/v1"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod.update(terminationGracePeriod=45),
        lambda pod: pod["containers"][0]["readinessProbe"]["httpGet"].pop("port"),
        lambda pod: pod["containers"][0]["env"][0].update(value=30),
    ],
)
def test_what_is_not_as_the_schemas_have_it_is_found(spoil: Callable[[Manifest], None]) -> None:
    deployment = copy.deepcopy(built("base")["Deployment"])
    spoil(_pod(deployment))
    with pytest.raises(kubernetes_validate.ValidationError):
        checked(deployment)


def test_no_address_of_a_service_is_taken_for_a_setting() -> None:
    assert _pod(built("base")["Deployment"])["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_everything_selects_the_pods_and_nothing_else(overlay: str) -> None:
    made = built(overlay)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        made["Deployment"]["spec"]["selector"]["matchLabels"],
        made["Service"]["spec"]["selector"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)
    assert made["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == made["Service"]["metadata"]["labels"]
    scaled = made["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": made["Deployment"]["metadata"]["name"],
    }
    assert _pod(made["Deployment"])["serviceAccountName"] == made["ServiceAccount"]["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_pods_are_asked_where_the_image_listens_and_run_as_its_user(overlay: str) -> None:
    made = built(overlay)
    pod = _pod(made["Deployment"])
    (container,) = pod["containers"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    (port,) = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == port["name"]
        assert asked["path"] == ("/health/live" if probe == "livenessProbe" else "/health/ready")
    assert made["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    (allowed,) = made["NetworkPolicy"]["spec"]["ingress"]
    assert allowed["ports"][0]["port"] == port["name"]
    assert allowed["from"]
    (keys,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "keys"]
    (file,) = [one["value"] for one in container["env"] if one["name"] == "MCDROPOUT_KEYS_FILE"]
    assert str(PurePosixPath(file).parent) == keys
    (endpoint,) = made["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] == made["Service"]["spec"]["ports"][0]["name"]
    assert endpoint["path"] == "/metrics"
    security = pod["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in dockerfile
    assert security["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert "/tmp" in mounted  # where compiled graphs are copied to
    assert container["image"].startswith("registry.example.com/mcdropout:")


def test_pods_end_after_what_they_have_in_flight() -> None:
    pod = _pod(built("base")["Deployment"])
    (container,) = pod["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert {name.removeprefix("MCDROPOUT_").lower() for name in given} <= set(Settings.model_fields)
    paused = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= float(given["MCDROPOUT_GRACE_SECONDS"]) + paused + 5


def test_there_are_more_pods_before_the_queue_is_full() -> None:
    made = built("base")
    (metric,) = made["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "mcdropout_queue_rows"
    (container,) = _pod(made["Deployment"])["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(metric["pods"]["target"]["averageValue"]) <= int(given["MCDROPOUT_MAX_QUEUE_ROWS"]) / 8
    assert "replicas" not in made["Deployment"]["spec"]  # or each rollout would undo what the autoscaler did


def test_the_overlay_for_gpus_asks_for_one_and_uses_the_image_that_has_cuda() -> None:
    pod, base = _pod(built("gpu")["Deployment"]), _pod(built("base")["Deployment"])
    (container,), (plain,) = pod["containers"], base["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": 1},
    }
    assert container["image"] == plain["image"] + "-gpu"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
