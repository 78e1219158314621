"""Stamps: a bundle's files are compared with earlier ones by their sizes and times, and then by what they hold."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from mcdropout.catalogue.bundle import COMPILED
from mcdropout.catalogue.manifest import BundleError
from mcdropout.digest import digest_of

_Of = TypeVar("_Of")

Stamp = tuple[int, int, int, int]
"""A file's size in bytes, the times of its last writing and of its last change in ns, and its inode."""
Stamps = Mapping[str, Stamp]
"""A stamp for each file, by its path in the bundle."""


def stamps_of(folder: Path) -> Stamps:
    """The files of a bundle; without hidden ones and bytecode, which reading a bundle writes."""
    found: dict[str, Stamp] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or path.suffix == ".pyc":
                continue
            try:
                stat = path.stat()
            except OSError:  # gone meanwhile, or a link that leads nowhere
                continue
            found[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return found


def sources(files: Mapping[str, _Of]) -> Mapping[str, _Of]:
    """What is known of those files that a bundle is compiled from: without `compiled/`."""
    return {name: known for name, known in files.items() if not name.startswith(f"{COMPILED}/")}


def changed(before: Stamps, after: Stamps) -> list[str]:
    """The files of `before` that are others, or gone, in `after`."""
    return sorted(name for name, stamp in before.items() if after.get(name) != stamp)


def check_unchanged(folder: Path, before: Stamps) -> None:
    """Raise BundleError if files of a bundle were replaced since: what was read may be of two versions."""
    if found := changed(before, stamps_of(folder)):
        raise BundleError(
            f"{folder}: {', '.join(found)} changed while it was loaded; a bundle that is complete is accepted"
        )


def digests_of(folder: Path, stamps: Stamps, known: Mapping[str, str], known_stamps: Stamps) -> dict[str, str]:
    """What files hold, as hashes; those that have the stamps of `known_stamps` are not read again.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        name: known[name] if name in known and known_stamps.get(name) == stamp else digest_of(folder / name)
        for name, stamp in stamps.items()
    }
