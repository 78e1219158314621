"""What the images are made of: base images that may be named by digest, packages by hash, and the list of these."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.test_deploy import DOCKERFILE, OURS, SERVICES, by_default, stages
from tests.patience import patience
from tests.servers import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
IN_IMAGES = ("grpc", "images", "otel", "zstd")
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


class Locked(NamedTuple):
    """A package as a lock has it."""

    version: str
    hashes: tuple[str, ...]


def lock(name: str) -> dict[str, Locked]:
    """The packages of a lock, by their names."""
    text = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        requirement, *hashes = re.split(r"\s+--hash=", line)
        parsed = Requirement(requirement)
        (specifier,) = parsed.specifier
        assert specifier.operator == "=="
        found[canonicalize_name(parsed.name)] = Locked(specifier.version, tuple(x.strip() for x in hashes))
    assert len(found) == len(lines)
    return found


def assert_holds(locked: dict[str, Locked], requirements: list[str]) -> None:
    """Fail where a lock has another version than what is required, or none."""
    for requirement in map(Requirement, requirements):
        if requirement.name != "mcdropout":
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)].version), requirement


@pytest.mark.parametrize("name", ["build", "cpu", "gpu"])
def test_every_package_is_locked_at_a_version_that_others_have_too_by_its_hashes(name: str) -> None:
    for package, locked in lock(name).items():
        assert Version(locked.version).local is None, package
        assert locked.hashes, package
        for one in locked.hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", one), package


def test_locks_hold_what_the_project_takes() -> None:
    (makefile,) = re.findall(r"^IMAGE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile.split() == [word for extra in IN_IMAGES for word in ("--extra", extra)]
    cpu, gpu, build = lock("cpu"), lock("gpu"), lock("build")
    assert_holds(cpu, PYPROJECT["project"]["dependencies"] + [x for extra in IN_IMAGES for x in EXTRAS[extra]])
    assert_holds(gpu, EXTRAS["torch"])
    assert_holds(build, PYPROJECT["dependency-groups"]["build"] + PYPROJECT["build-system"]["requires"])
    assert "torch" not in cpu
    assert {name: gpu[name].version for name in cpu} == {name: locked.version for name, locked in cpu.items()}


def test_images_install_what_is_locked_and_nothing_else() -> None:
    installed = re.findall(r"\bpip --python (\S+) install (.*)$", DOCKERFILE, re.MULTILINE)
    assert len(installed) == len(re.findall(r"\bpip\b.*\binstall\b", DOCKERFILE))
    locks = {}
    for python, options in installed:
        words = options.removesuffix("\\").split()
        if "--no-index" in words:
            assert "--no-deps" in words
            continue
        assert "--require-hashes" in words
        locks[words[words.index("-r") + 1]] = python
    assert locks == {
        "deploy/locks/build.txt": "/tools/bin/python",
        "deploy/locks/cpu.txt": "/venv/bin/python",
        "deploy/locks/gpu.txt": "/venv/bin/python",
    }


def test_base_images_may_be_named_by_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    for name in OURS:
        assert by_default(SERVICES[name]["build"]["args"]["PYTHON_IMAGE"]) == base
    assert {base for base, _ in stages().values()} - stages().keys() == {"${PYTHON_IMAGE}"}


def digests(folder: Path, told: str) -> "subprocess.CompletedProcess[str]":
    """What the script prints where docker, which is not there, tells this of every image."""
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo \'{told}\'\n')
    docker.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    script = [str(ROOT / "deploy" / "digests.sh")]
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=patience(30), check=False)


def test_digests_are_printed_as_variables_of_compose(tmp_path: Path) -> None:
    printed = dict(line.split("=") for line in digests(tmp_path, f'"{DIGEST}"').stdout.splitlines())
    compose = (ROOT / "docker-compose.yml").read_text()
    images = dict(re.findall(r"\$\{(\w+_IMAGE):-([^}]*)\}", compose))
    assert images.keys() == {"GRAFANA_IMAGE", "PROMETHEUS_IMAGE", "PYTHON_IMAGE"}
    assert printed == {name: f"{image}@{DIGEST}" for name, image in images.items()}


def test_what_is_no_digest_is_said(tmp_path: Path) -> None:
    ended = digests(tmp_path, "null")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "is 'null'; one that begins with sha256: is accepted" in ended.stderr


def environment_with(folder: Path, **packages: str) -> Path:
    """The interpreter of an environment in which packages are installed, by what tells their versions."""
    venv.create(folder)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name, version in packages.items():
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder / "bin" / "python"


def test_the_list_of_packages_names_those_that_are_installed(tmp_path: Path) -> None:
    """By the command that builds the images."""
    found = re.findall(r"/tools/bin/cyclonedx-py (.*)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
    assert len(found) == 2
    (command,) = {tuple(one.split()) for one in found}  # of both images the same
    *options, output, python = command
    assert (options[-1], output, python) == ("--output-file", "/venv/sbom.cdx.json", "/venv/bin/python")
    made = tmp_path / "sbom.cdx.json"
    installed = environment_with(tmp_path / "venv", mcdropout="0.0.1", one="1.2.3")
    asked = [sys.executable, "-m", "cyclonedx_py", *options, str(made), str(installed)]
    subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, timeout=patience(60))
    document = json.loads(made.read_text())
    assert document["bomFormat"] == "CycloneDX"
    project = document["metadata"]["component"]
    assert (project["name"], project["version"]) == ("mcdropout", PYPROJECT["project"]["version"])
    listed = {(one["name"], one["version"], one.get("purl")) for one in document["components"]}
    assert ("one", "1.2.3", "pkg:pypi/one@1.2.3") in listed
