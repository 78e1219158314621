"""Folders as people name them on the command line."""

from collections.abc import Iterator
from pathlib import Path

import typer


def folders(given: list[str]) -> Iterator[str]:
    """What was given, but for files: `models/*` names those beside the bundles too."""
    for text in given:
        if Path(text).is_file():
            typer.echo(f"{text} is a file, no bundle's folder: left out", err=True)
        else:
            yield text
