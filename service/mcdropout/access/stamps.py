"""Stamps: whether a file is the one that was read."""

import os
from pathlib import Path

Stamp = tuple[int, int, int] | None


def stamp_of(file: Path) -> Stamp:
    """What is another when a file has changed; None where there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
