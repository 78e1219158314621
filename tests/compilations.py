"""Bundles that are compiled already: each network once a run of the tests, whichever of its processes asks for it."""

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

import yaml

from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.compiler import compile_here as compile_bundle_here
from mcdropout.catalogue.provenance import stale_parts

_KEPT_IN = "TESTS_COMPILATIONS"
# What of a manifest leaves the program as it is.
_FREE = frozenset({"name", "version", "labels", "passes", "temperature", "description"})


def keep_compilations(folder: Path) -> None:
    """Have this process, and those that it starts, keep what they compile in a folder."""
    folder.mkdir()
    os.environ[_KEPT_IN] = str(folder)


def compiled(folder: Path) -> Path:
    """A bundle with its `compiled/` as `mcdropout compile` writes it, copied from an equal one where there was one."""
    place = Path(os.environ[_KEPT_IN]) / _content(folder)
    with (place.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            compile_here(folder, place.with_suffix(".new"))
            place.with_suffix(".new").rename(place)
    shutil.copytree(place, folder / COMPILED)
    assert stale_parts(Bundle(folder)) == []
    return folder


def compile_here(folder: Path, into: Path) -> None:
    """Compile a bundle as `mcdropout compile` does, but in this process, where PyTorch is imported already."""
    from tests.exporting import export_quickly

    export_quickly()
    into.mkdir(exist_ok=True)
    assert compile_bundle_here(folder, into) == ("compiled", None)


def _content(folder: Path) -> str:
    """A digest of what a bundle's program depends on."""
    fields = yaml.safe_load((folder / "model.yaml").read_text())
    found = hashlib.sha256(yaml.safe_dump({key: fields[key] for key in fields.keys() - _FREE}).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "model.yaml" and "__pycache__" not in path.parts:
            found.update(f"{path.relative_to(folder)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
