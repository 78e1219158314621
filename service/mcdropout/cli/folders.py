"""Bundles' folders as people name them on the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import typer


def folders(given: Sequence[str]) -> Iterator[str]:
    """What was given, but for files beside bundles: `models/*` names those too."""
    several = any(Path(text).is_dir() for text in given)
    for text in given:
        if several and Path(text).is_file():
            typer.echo(f"{text} is a file, no bundle's folder: left out", err=True)
        else:
            yield text


def why_no_bundle(text: str) -> str | None:
    """Why a path is no bundle's folder, and what to name instead; None where it is one."""
    from mcdropout.catalogue.manifest import MANIFEST

    path = Path(text)
    if (path / MANIFEST).exists():
        return None
    if not path.exists():
        return f"there is no {text}; a bundle's folder, which holds a {MANIFEST}, is accepted"
    if path.is_file():
        function = f"; {text}:function, which makes a network, can be inspected" if path.suffix == ".py" else ""
        return (
            f"{text} is a file; a bundle's folder, which holds a {MANIFEST}, is accepted: `mcdropout init` makes one "
            f"of a network{function}"
        )
    if inner := sorted(found.parent.name for found in path.glob(f"*/{MANIFEST}")):
        return (
            f"{text} is a folder of {len(inner)} bundles; {path / '*'} names all of them, and {path / inner[0]} one: "
            "these are accepted"
        )
    return f"{text} holds no {MANIFEST}; a bundle's folder is accepted: `mcdropout init` makes one of a network"
