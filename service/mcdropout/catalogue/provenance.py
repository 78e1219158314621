"""Provenance: what a bundle's `compiled/` was made of, so that it is not served once that has changed.

That is what the manifest says of the program, and what compiling looked at in the folder (`reads.py`): files by what
they hold, those that were looked for in vain by their absence, and folders that were listed by the names in them.
"""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcdropout.catalogue.bundle import COMPILED, EXAMPLE, Bundle
from mcdropout.catalogue.manifest import MANIFEST
from mcdropout.catalogue.reads import Reads
from mcdropout.digest import digest_of

SOURCES = "sources.json"
_VERSION = version("mcdropout")
# Fields of model.yaml that a program depends on; others, such as labels, may change without compiling anew.
_FIELDS = frozenset(
    {"task", "inputs_by", "sizes", "output", "output_row_axis", "dropout", "model", "network", "arguments", "weights"}
)
_INPUT_FIELDS = frozenset({"name", "shape", "dtype", "row_axis"})


def stale_parts(bundle: Bundle) -> list[str]:
    """Why a bundle's `compiled/` is not of what it holds now; empty where it is."""
    if bundle.manifest.is_compiled_alone:
        return [] if (bundle.folder / COMPILED).is_dir() else [f"{COMPILED}/ is missing"]
    path = bundle.folder / COMPILED / SOURCES
    if not path.parent.is_dir():
        return [f"{COMPILED}/ is missing"]
    try:
        recorded = json.loads(path.read_bytes())
        made_by, fields, files = recorded["mcdropout"], recorded["fields"], dict(recorded["files"])
        listed = dict(recorded.get("listed", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{COMPILED}/{SOURCES} cannot be read ({error})"]
    found = []
    if made_by != _VERSION:
        found.append(f"it was made by version {made_by}, this is {_VERSION}")
    if fields != _digest_of_fields(bundle):
        found.append(f"{MANIFEST} changed")
    for name, before in files.items():
        now = _state_of(bundle.folder / name)
        if now != before:
            found.append(f"{name} {'is gone' if now is None else 'is new' if before is None else 'changed'}")
    found += [f"what lies in {name} changed" for name, names in listed.items() if names != _names_in(bundle, name)]
    return found


def sources_of(bundle: Bundle, reads: Reads) -> dict[str, Any]:
    """What a bundle was compiled from.

    Args:
        bundle: which.
        reads: what of its folder was looked at meanwhile.
    """
    manifest = bundle.manifest
    declared = {name for name in (manifest.network, manifest.model, manifest.weights, EXAMPLE) if name}
    names = {Path(name.partition(":")[0] if name == manifest.network else name).as_posix() for name in declared}
    return {
        "mcdropout": _VERSION,
        "fields": _digest_of_fields(bundle),
        "files": {name: _state_of(bundle.folder / name) for name in sorted(names | reads.names)},
        "listed": {name: _names_in(bundle, name) for name in sorted(reads.listed)},
    }


def _state_of(path: Path) -> str | None:
    """What is at a path: a file as what it holds, a folder as such; None where there is nothing."""
    if path.is_file():
        return digest_of(path)
    return "folder" if path.is_dir() else None


def _names_in(bundle: Bundle, name: str) -> str | None:
    """A digest of the names in a folder, without hidden ones and what compiling writes; None where there is none."""
    try:
        names = os.listdir(bundle.folder / name)
    except OSError:
        return None
    counted = [each for each in names if not each.startswith(".") and each not in (COMPILED, "__pycache__")]
    return hashlib.sha256("\0".join(sorted(counted)).encode(errors="surrogateescape")).hexdigest()


def _digest_of_fields(bundle: Bundle) -> str:
    # What a manifest leaves at its default counts no more than a field that there was not when it was compiled.
    fields = bundle.manifest.model_dump(mode="json", include=set(_FIELDS), exclude_defaults=True)
    taken = [
        spec.model_dump(mode="json", include=set(_INPUT_FIELDS), exclude_defaults=True)
        for spec in bundle.manifest.takes
    ]
    fields["takes"] = taken
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
