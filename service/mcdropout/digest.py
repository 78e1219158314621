"""Digests: what a file holds, in a form that can be compared and kept."""

import hashlib
from pathlib import Path


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
