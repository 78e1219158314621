"""The files under which the service is deployed agree with each other, with the service and with the README."""

import copy
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import trustme
import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement
from packaging.version import Version

from mcdropout.settings import Settings
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import ROOT, Server, serving

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS, GPU = ("mcdropout", "mcdropout-gpu"), "mcdropout-gpu"
ENVIRONMENT = dict(line.split("=") for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#"))
GRAFANA = ROOT / "deploy" / "grafana"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
DOCUMENTS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())


def by_default(text: str) -> str:
    """What Compose makes of variables where nobody sets them."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def parsed(compose: dict[str, Any]) -> PyCompose:
    """A Compose file, read by the Compose specification."""
    return PyCompose.from_yaml(by_default(yaml.safe_dump(compose, sort_keys=False)))


def test_compose_is_as_its_specification_has_it() -> None:
    assert set(parsed(COMPOSE).service_names()) == {*OURS, "prometheus", "grafana"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda services: services["grafana"].update(read_onlyy=True),
        lambda services: services["grafana"]["depends_on"]["prometheus"].update(condition="healthy"),
        lambda services: services["mcdropout"].update(stop_grace_period="soon"),
    ],
)
def test_what_is_not_as_the_specification_has_it_is_found(spoil: Callable[[dict[str, Any]], None]) -> None:
    compose = copy.deepcopy(COMPOSE)
    spoil(compose["services"])
    with pytest.raises(ValueError, match="services"):
        parsed(compose)


def published(service: str) -> tuple[str, str, str]:
    """The address, the port outside and the port inside of the one port that a service publishes."""
    (port,) = SERVICES[service]["ports"]
    *address, outside, inside = port.split(":")
    return "".join(address) or "0.0.0.0", outside, inside


def test_prometheus_scrapes_the_service_that_compose_starts_where_it_listens() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES
    assert SERVICES[GPU]["networks"]["default"]["aliases"] == [host]
    for name in OURS:
        assert published(name)[2] == port
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"MCDROPOUT_PORT={port} " in DOCKERFILE
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_ports_are_those_of_the_documents_and_for_this_machine_alone() -> None:
    assert {published(name)[0] for name in SERVICES} == {"127.0.0.1"}
    for name in OURS:
        assert f"on {published(name)[1]}" in DOCUMENTS
    for name in ("grafana", "prometheus"):
        assert f"{name.capitalize()} on {published(name)[1]}" in DOCUMENTS


def test_profiles_and_targets_that_the_documents_name_are_there() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(re.findall(r"--profile (\w+)", DOCUMENTS)) <= profiles
    assert set(re.findall(r"--target (\w+)", DOCUMENTS)) <= stages().keys()
    assert ENVIRONMENT["COMPOSE_PROFILES"] in SERVICES["mcdropout"]["profiles"]
    for name in OURS:
        assert SERVICES[name]["profiles"] == [SERVICES[name]["build"]["target"]]


def mounts(service: str) -> dict[str, tuple[str, str]]:
    """Where what is mounted lies inside, and in what mode, by what it is outside."""
    split = [mount.split(":") for mount in SERVICES[service]["volumes"]]
    return {outside: (inside, mode[0] if mode else "rw") for outside, inside, *mode in split}


def test_what_compose_mounts_is_where_it_is_looked_for() -> None:
    for name in OURS:
        assert f"MCDROPOUT_MODELS={mounts(name)['./models'][0]} " in DOCKERFILE
    configured = mounts("prometheus")["./deploy/prometheus"][0]
    assert f"--config.file={configured}/prometheus.yml" in SERVICES["prometheus"]["command"]
    assert f"--storage.tsdb.path={mounts('prometheus')['prometheus'][0]}" in SERVICES["prometheus"]["command"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "dashboards.yaml").read_text())["providers"]
    dashboards = mounts("grafana")["./deploy/grafana/dashboards"][0]
    assert provider["options"]["path"] == dashboards
    home = PurePosixPath(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == dashboards
    assert (GRAFANA / "dashboards" / home.name).is_file()
    for service in SERVICES:
        for outside, (_, mode) in mounts(service).items():
            assert (ROOT / outside).exists() if outside.startswith(".") else outside in COMPOSE["volumes"]
            assert (mode == "ro") == outside.startswith(".")


def test_each_service_waits_until_those_that_it_needs_are_healthy() -> None:
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}
    # Only one of them has its profile on.
    assert SERVICES["prometheus"]["depends_on"] == {
        name: {"condition": "service_healthy", "required": False} for name in OURS
    }
    for name, path in {"prometheus": "/-/ready", "grafana": "/api/health"}.items():
        command, *_, url = SERVICES[name]["healthcheck"]["test"]
        assert command == "CMD"
        assert url == f"http://127.0.0.1:{published(name)[2]}{path}"


def test_containers_have_limits_and_no_more_rights_than_they_need() -> None:
    for name, service in SERVICES.items():
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert not service.get("privileged")
        assert "user" not in service, name
    (device,) = SERVICES[GPU]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name in SERVICES if "reservations" in SERVICES[name]["deploy"]["resources"]] == [GPU]


def test_compose_runs_the_service_as_its_image_does() -> None:
    for name in OURS:
        assert not {"command", "entrypoint", "user", "healthcheck", "working_dir"} & SERVICES[name].keys()
        assert SERVICES[name]["init"] is True
        (temporary,) = SERVICES[name]["tmpfs"]  # where compiled graphs are copied to, and others compiled
        path, options = temporary.split(":")
        assert path == "/tmp"
        assert "mode=1777" in options.split(",")
        waited = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
        assert waited is not None
        assert int(waited[1]) >= Settings.model_fields["grace_seconds"].default + 5
        named = SERVICES[name].get("environment", {})
        assert {key.removeprefix("MCDROPOUT_").lower() for key in named} <= Settings.model_fields.keys()


def test_grafana_reads_the_prometheus_that_compose_starts_and_has_no_password_that_everybody_knows() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == f"http://prometheus:{published('prometheus')[2]}"
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in [*environment, *ENVIRONMENT] if "PASSWORD" in name]


def test_the_grafana_that_compose_starts_is_the_one_that_the_dashboard_was_made_for() -> None:
    (sdk,) = [name for name in PROJECT["optional-dependencies"]["dev"] if name.startswith("grafana-foundation-sdk")]
    (pinned,) = Requirement(sdk).specifier
    assert by_default(SERVICES["grafana"]["image"]).endswith(f":{Version(pinned.version).base_version.split('!')[1]}")
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", by_default(SERVICES[name]["image"]))


def stages() -> dict[str, tuple[str, str]]:
    """What each stage is built from, and its instructions, by its name."""
    split = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {name: (base, text) for base, name, text in zip(split[::3], split[1::3], split[2::3], strict=True)}


def instructions(target: str) -> str:
    """Those of an image's own stages: not of the ones that it only copies from."""
    base, text = stages()[target]
    return (instructions(base) if base in stages() else "") + re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_sets_only_settings_that_there_are_and_runs_as_no_root(target: str) -> None:
    text = instructions(target)
    named = set(re.findall(r"\bMCDROPOUT_([A-Z_]+)=", text))
    assert named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()
    assert ("MCDROPOUT_DEVICE=cuda" in text) == (target == "gpu")
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^CMD (.*)$", text, re.MULTILINE) == ['["mcdropout", "serve"]']
    assert "ENTRYPOINT" not in text
    for builder in ("apt-get", "gcc", "pip"):
        assert builder not in text


def test_each_image_gets_what_its_own_builder_installed() -> None:
    copied = {
        target: re.findall(r"^COPY --from=(\S+) ", instructions(target), re.MULTILINE) for target in ("cpu", "gpu")
    }
    assert copied == {"cpu": ["build"], "gpu": ["build-gpu"]}
    assert stages()["build-gpu"][0] == "build"
    assert {SERVICES[name]["build"]["target"] for name in OURS} == copied.keys()
    # The image without a name is that for CPUs.
    assert list(stages())[-1] == "cpu"
    assert len(stages()) == len(re.findall(r"^FROM", DOCKERFILE, re.MULTILINE))
    bases = {base for base, _ in stages().values()} - stages().keys()
    assert bases == {"${PYTHON_IMAGE}"}


def health_check(port: int, **others: str) -> int:
    """The exit status of the image's health check for a server on a port of this machine."""
    (text,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)*? *CMD (.*)$", instructions("cpu"), re.MULTILINE)
    command = json.loads(text)
    assert command[0] == "python"
    environment = os.environ | {"MCDROPOUT_PORT": str(port)} | others
    asked = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, timeout=patience(30))
    return asked.returncode


def test_the_health_check_passes_where_the_server_is_ready(server: Server) -> None:
    assert health_check(server.port) == 0


def test_the_health_check_passes_over_tls(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("mc.example.org")
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(files[0]))
    certificate.private_key_pem.write_to_path(str(files[1]))
    named = {"MCDROPOUT_TLS_CERTIFICATE": str(files[0]), "MCDROPOUT_TLS_KEY": str(files[1])}
    with serving(MODELS, tmp_path, "--default", "mnist-mlp", MCDROPOUT_PRELOAD="false", **named) as running:
        running.speak_tls(ssl._create_unverified_context())
        running.wait_until_ready()
        assert health_check(running.port, **named) == 0


def test_the_health_check_fails_where_the_server_is_not_ready_or_not_there(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "broken").mkdir(parents=True)
    (models / "broken" / "model.yaml").write_text("name: another\n")
    with serving(models, tmp_path, "--default", "broken") as running:
        running.wait_until_listening()
        assert health_check(running.port) == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert health_check(free.getsockname()[1]) == 1


def in_build_context(path: str) -> bool:
    """Whether the build sees a file, by the last line of .dockerignore that matches it or a folder of it."""
    names = [path, *map(str, PurePosixPath(path).parents)]
    seen = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line.startswith("#") and any(fnmatch(name, pattern) for name in names):
            seen = line.startswith("!")
    return seen


def test_the_images_get_what_serving_a_bundle_takes_and_nothing_that_lies_about() -> None:
    for bundle in MODELS.glob("*/model.yaml"):
        compiled = sorted(bundle.parent.glob("compiled/**/*"))
        assert compiled
        # `serve` compares the hashes of these.
        recorded = json.loads((bundle.parent / "compiled" / "sources.json").read_text())["files"]
        for file in [bundle, *compiled, *(bundle.parent / name for name in recorded)]:
            assert in_build_context(file.relative_to(ROOT).as_posix()), file
    for source in (
        "pyproject.toml",
        "setup.py",
        "README.md",
        "deploy/locks/cpu.txt",
        "service/mcdropout/engine/native/masks.c",
    ):
        assert (ROOT / source).is_file()
        assert in_build_context(source)
    for other in (".env", ".git/config", ".venv/bin/python", "deploy/grafana/dashboard.py", "tests/conftest.py"):
        assert not in_build_context(other)
    for made in (
        "service/mcdropout/engine/native/_native.so",
        "service/mcdropout/__pycache__/log.cpython-311.pyc",
        "models/mnist-cnn/train.py",
        *(file.relative_to(ROOT).as_posix() for file in MODELS.glob("*.py")),
    ):
        assert not in_build_context(made)


def test_the_readme_opens_with_the_two_commands_and_the_documents_name_files_and_settings_that_there_are() -> None:
    first_block = README.split("```")[1]
    assert "make serve" in first_block
    assert "make test" in README.split("## ")[0]
    for target in re.findall(r"^(?:\$ )?make (\w+)", DOCUMENTS, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    curls = [line for line in DOCUMENTS.splitlines() if line.lstrip("$ ").startswith("curl")]
    assert curls
    for line in curls:
        for word in shlex.split(line.lstrip("$ ").rstrip("\\")):
            if word.startswith("@"):
                assert (ROOT / word[1:]).is_file(), word
    for name in re.findall(r"MCDROPOUT_([A-Z_]+)", DOCUMENTS):
        assert name.lower() in {*Settings.model_fields, "mnist", "client_key", "client_url"}, (
            name
        )  # of tests, and of a client
    for model in re.findall(r"`((?:mnist|concrete|digits|tumour|sentiment)-\w+)`", DOCUMENTS):
        assert (MODELS / model / "model.yaml").is_file()
