"""The package as it is published: of a source distribution a wheel can be made, and a wheel holds all that serves."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import ROOT, serving

PACKAGE = ROOT / "service" / "mcdropout"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPILER = shutil.which("cc") or shutil.which("gcc")
KUSTOMIZATIONS = [f"deploy/kubernetes/{overlay}/kustomization.yaml" for overlay in ("base", "gpu")]
# What an installation makes, or a run.
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")


def clean() -> dict[str, str]:
    """Variables for a process that sees none of this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def build(source: Path, into: Path, *options: str) -> None:
    """Have a folder built with what is installed here, so that nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean(), timeout=patience(60))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of the wheel that was made of it."""
    if not list(distributions(name="build")):
        pytest.skip("build is not installed: pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT / "service", source / "service", ignore=MADE)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    build(source, folder / "dist")
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def served() -> set[str]:
    """The files of the package but for what the C library is made of."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        path.relative_to(PACKAGE.parent).as_posix() for path in files if path.suffix not in (".c", ".h", ".so", ".pyc")
    }


def test_a_wheel_holds_all_that_serves_and_nothing_that_it_is_made_of(wheel: Path) -> None:
    held = {name for name in names_in(wheel) if ".dist-info/" not in name}
    library = {"mcdropout/engine/native/_native.so"}
    assert held - library == served()
    assert "mcdropout/py.typed" in held
    assert library <= held or COMPILER is None


def test_a_wheel_is_of_its_platform_and_of_every_python(wheel: Path) -> None:
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert (name, str(version)) == ("mcdropout", PROJECT["version"])
    (tag,) = tags
    assert (tag.interpreter, tag.abi) == ("py3", "none")
    assert tag.platform.startswith("linux_") or sys.platform != "linux"


def test_what_is_published_says_that_it_is_typed_and_of_which_python_and_is_in_no_index_yet(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        about = message_from_bytes(archive.read(name))
    assert about["Requires-Python"] == ">=3.11"
    classifiers = about.get_all("Classifier") or []
    assert {"Typing :: Typed", "Private :: Do Not Upload"} <= set(classifiers)
    assert about["Project-URL"] is None
    assert about["License-Expression"] is None


def test_a_source_distribution_holds_what_a_wheel_is_made_of_and_no_tests(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    native = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.suffix in (".c", ".h")}
    assert native
    assert {*native, "setup.py", "pyproject.toml", "README.md", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_without_the_c_library_a_wheel_is_of_every_platform(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    build(source, tmp_path / "dist", "--wheel", "-C--build-option=--pure")
    (pure,) = (tmp_path / "dist").iterdir()
    assert pure.name == f"mcdropout-{PROJECT['version']}-py3-none-any.whl"
    assert {name for name in names_in(pure) if ".dist-info/" not in name} == served()


def test_what_was_installed_from_a_wheel_serves_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=clean(), timeout=patience(60))
    (place,) = folder.glob("lib/python*/site-packages")
    # What it requires is the running environment's, and behind what the new one has.
    required = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (place / "requirements.pth").write_text("".join(f"{path}\n" for path in required))
    apart = ("env", "-C", str(tmp_path), *(f"--unset={name}" for name in ("PYTHONPATH", "PYTHONHOME")))
    command = (*apart, str(folder / "bin" / "mcdropout"))
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=patience(60), check=True)
    assert shown.stdout == f"mcdropout {PROJECT['version']}\n"
    where = [*apart, str(python), "-c", "import mcdropout; print(mcdropout.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, timeout=patience(60), check=True).stdout
    assert Path(found.strip()).is_relative_to(place)
    models = tmp_path / "models"
    shutil.copytree(MODELS / "concrete-mlp", models / "concrete-mlp")
    with serving(models, tmp_path, command=command) as server:
        server.wait_until_ready()
        body = (MODELS / "concrete-mlp" / "example.json").read_bytes()
        answer = server.client.post("/predict?mc=20", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        for path in ("/docs", "/", "/page/main.js", "/page/answers/view.js"):
            assert server.client.get(path).status_code == 200, path
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert f"{place}/mcdropout/engine/native/_native.so" in mapped or COMPILER is None
        assert str(PACKAGE) not in mapped


def test_the_version_is_said_in_one_place_and_image_tags_are_of_it() -> None:
    """What runs reads it from what was installed."""
    for path in [*PACKAGE.rglob("*.py"), ROOT / "setup.py"]:
        assert PROJECT["version"] not in path.read_text(), path
    named = {"docs/deploy.md": r"\bmcdropout:(\S+)", **dict.fromkeys(KUSTOMIZATIONS, r"newTag: (\S+)")}
    for name, pattern in named.items():
        tags = re.findall(pattern, (ROOT / name).read_text())
        assert {tag.removesuffix("-gpu") for tag in tags} == {PROJECT["version"]}, name
