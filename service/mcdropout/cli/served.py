"""What `mcdropout serve` is pointed at: bundles, a folder of them, or what a bundle is made of first.

Made bundles, and links to those that are served beside one another, lie in the user's cache: the same command finds
them again, and makes anew what has changed since.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mcdropout.catalogue.making.source import Source

_STAMP = "stamp"
_MOST_FILES = 2000  # of a project, that are looked at for changes


def folder_of(texts: Sequence[str], given: "Source") -> tuple[Path, list[Path]]:
    """The folder of bundles to serve, and those of them that were named, or made.

    Args:
        texts: bundles' folders, sources of bundles; or a folder of bundles, alone.
        given: what is said of the sources.

    Raises:
        SourceError: a source cannot be used, or two bundles have one name.
        BundleError: what was made of one is refused.
    """
    from mcdropout.catalogue.making.source import Source, SourceError
    from mcdropout.catalogue.manifest import MANIFEST

    is_bundle = [next(Path(text).glob(f"*/{MANIFEST}"), None) or (Path(text) / MANIFEST).is_file() for text in texts]
    if all(is_bundle) and given != Source(given.text):
        raise SourceError(
            f"options of a network that is made a bundle of are given, and {', '.join(texts)} is one; model.yaml says "
            "what they would"
        )
    if len(texts) == 1 and next(Path(texts[0]).glob(f"*/{MANIFEST}"), None) is not None:
        return Path(texts[0]), []
    bundles: dict[str, Path] = {}
    for text in texts:
        bundle = Path(text) if (Path(text) / MANIFEST).is_file() else _made(replace(given, text=text))
        name = Path(os.path.abspath(bundle)).name
        if name in bundles:
            raise SourceError(f"{bundles[name]} and {bundle} have one name, {name}; different ones are accepted")
        bundles[name] = bundle
    return _linked({name: bundle.resolve() for name, bundle in bundles.items()}), list(bundles.values())


def _made(source: "Source") -> Path:
    """The bundle of a source, made where it was not, or where the source has changed since."""
    from mcdropout.catalogue.making.make import make
    from mcdropout.catalogue.manifest import MANIFEST
    from mcdropout.cli.asking import asker
    from mcdropout.cli.progress import compiling

    place = _cache() / "made" / _digest(repr(replace(source, text=os.path.abspath(source.text))), os.getcwd())
    stamp, now = place / _STAMP, state_of(source)
    found = next(place.glob(f"*/{MANIFEST}"), None)
    if found is not None and stamp.is_file() and stamp.read_text() == now:
        return found.parent
    stamp.unlink(missing_ok=True)
    made = make(source, place, force=True, ask=asker(yes=False), compiling=compiling)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    stamp.write_text(now)
    return made.folder


def state_of(source: "Source") -> str:
    """A digest of the files of a source by their sizes and times: its own, its weights, and the code around it."""
    from mcdropout import __version__

    code = (source.module or source.text).rpartition(":")[0]
    paths = [path for path in (source.path, source.weights) if path is not None]
    if code:
        root = Path(code).parent if code.endswith(".py") else Path.cwd()
        paths += sorted(root.rglob("*.py"))[:_MOST_FILES]
    paths += sorted(source.path.rglob("*")) if source.path.is_dir() else []
    stats = [(str(path), path.stat()) for path in paths if path.is_file()]
    return _digest(__version__, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats))


def _linked(bundles: dict[str, Path]) -> Path:
    """A folder of links to bundles."""
    folder = _cache() / "served" / _digest(*(f"{name} {bundle}" for name, bundle in sorted(bundles.items())))
    folder.mkdir(parents=True, exist_ok=True)
    for name, bundle in bundles.items():
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(bundle, target_is_directory=True)
    return folder


def _cache() -> Path:
    """The user's cache, or a temporary folder where it cannot be written to."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcdropout"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mcdropout-"))
    return place if os.access(place, os.W_OK) else Path(tempfile.mkdtemp(prefix="mcdropout-"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
