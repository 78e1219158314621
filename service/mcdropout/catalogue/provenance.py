"""Provenance: what a bundle's `compiled/` was made of, so that it is not served once that has changed."""

import hashlib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcdropout.catalogue.bundle import COMPILED, EXAMPLE, Bundle
from mcdropout.catalogue.manifest import MANIFEST
from mcdropout.digest import digest_of

SOURCES = "sources.json"
_VERSION = version("mcdropout")
# Fields of model.yaml that a program depends on; others, such as labels, may change without compiling anew.
_FIELDS = frozenset(
    {"task", "inputs_by", "output", "output_row_axis", "dropout", "model", "network", "arguments", "weights"}
)
_INPUT_FIELDS = frozenset({"name", "shape", "dtype", "row_axis"})


def stale_parts(bundle: Bundle) -> list[str]:
    """Why a bundle's `compiled/` is not of what it holds now; empty where it is."""
    path = bundle.folder / COMPILED / SOURCES
    if not path.parent.is_dir():
        return [f"{COMPILED}/ is missing"]
    try:
        recorded = json.loads(path.read_bytes())
        made_by, fields, files = recorded["mcdropout"], recorded["fields"], dict(recorded["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{COMPILED}/{SOURCES} cannot be read ({error})"]
    found = []
    if made_by != _VERSION:
        found.append(f"it was made by version {made_by}, this is {_VERSION}")
    if fields != _digest_of_fields(bundle):
        found.append(f"{MANIFEST} changed")
    for name, digest in files.items():
        file = bundle.folder / name
        if not file.is_file():
            found.append(f"{name} is gone")
        elif digest_of(file) != digest:
            found.append(f"{name} changed")
    return found


def sources_of(bundle: Bundle) -> dict[str, Any]:
    """What a bundle was compiled from; to be called by the process that compiled it, whose imports count."""
    folder = bundle.folder.resolve()
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = {Path(file).resolve() for file in loaded if file}
    files |= {folder / name for name in (bundle.manifest.model, bundle.manifest.weights, EXAMPLE) if name}
    if bundle.manifest.is_onnx and bundle.manifest.model is not None:
        files |= set(_external_files(bundle.folder / bundle.manifest.model))
    inside = sorted(path for path in files if path.is_relative_to(folder) and path.is_file())
    return {
        "mcdropout": _VERSION,
        "fields": _digest_of_fields(bundle),
        "files": {path.relative_to(folder).as_posix(): digest_of(path) for path in inside},
    }


def _external_files(path: Path) -> Iterable[Path]:
    from mcdropout.engine.onnx.write import external_files

    return (file.resolve() for file in external_files(path))


def _digest_of_fields(bundle: Bundle) -> str:
    fields = bundle.manifest.model_dump(mode="json", include=set(_FIELDS))
    fields["takes"] = [spec.model_dump(mode="json", include=set(_INPUT_FIELDS)) for spec in bundle.manifest.takes]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
