"""The files under which the service is deployed agree with each other, with the service and with the README."""

import re
import shlex

import yaml

from service.settings import Settings
from tests.conftest import MODELS
from tests.servers import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
README = (ROOT / "README.md").read_text()
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())


def test_prometheus_scrapes_the_service_that_compose_starts_where_it_listens() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in COMPOSE["services"]
    (published,) = COMPOSE["services"][host]["ports"]
    assert published.split(":")[1] == port
    assert f"EXPOSE {port}" in DOCKERFILE
    assert f"MCDROPOUT_PORT={port}" in DOCKERFILE
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_what_compose_mounts_is_where_the_image_looks_for_it() -> None:
    mounts = [mount.split(":") for mount in COMPOSE["services"]["mcdropout"]["volumes"]]
    (models,) = [inside for outside, inside, *_ in mounts if outside == "./models"]
    assert f"MCDROPOUT_MODELS={models}" in DOCKERFILE
    for outside, _, mode in [mount for mount in mounts if mount[0].startswith("./")]:
        assert (ROOT / outside).exists()
        assert mode == "ro"
    configured = COMPOSE["services"]["prometheus"]["volumes"][0].split(":")
    assert (ROOT / configured[0]).is_file()
    assert f"--config.file={configured[1]}" in COMPOSE["services"]["prometheus"]["command"]


def test_the_image_sets_only_settings_that_there_are_and_runs_as_no_root() -> None:
    named = set(re.findall(r"\bMCDROPOUT_([A-Z_]+)=", DOCKERFILE))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    last_stage = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert re.search(r"^USER (?!root\b|0\b)\w+$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert "/health/ready" in last_stage
    assert re.search(r'^CMD \["mcdropout", "serve"\]$', last_stage, re.MULTILINE)


def test_the_readme_opens_with_the_two_commands_and_names_files_and_settings_that_there_are() -> None:
    first_block = README.split("```")[1]
    assert "make serve" in first_block
    assert "make test" in README.split("## ")[0]
    for target in re.findall(r"^(?:\$ )?make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    curls = [line for line in README.splitlines() if line.lstrip("$ ").startswith("curl")]
    assert curls
    for line in curls:
        for word in shlex.split(line.lstrip("$ ").rstrip("\\")):
            if word.startswith("@"):
                assert (ROOT / word[1:]).is_file(), word
    for name in re.findall(r"MCDROPOUT_([A-Z_]+)", README):
        assert name.lower() in {*Settings.model_fields, "mnist"}, name
    for model in re.findall(r"`(mnist-\w+)`", README):
        assert (MODELS / model / "model.yaml").is_file()
