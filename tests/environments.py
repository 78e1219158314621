"""An environment in which only what a plain `pip install .` brings can be imported: no PyTorch."""

import os
import site
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def without_extras(folder: Path, package: str = "mcdropout") -> Path:
    """Make a virtual environment of links to a package and what it requires without extras.

    Returns:
        The environment's Python.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    place = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for found in _required(package):
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            source = Path(str(found.locate_file(top)))
            if not (place / top).exists():
                (place / top).symlink_to(source)
    return folder / "bin" / "python"


def _required(package: str) -> Iterator[Distribution]:
    waiting: list[tuple[str, frozenset[str]]] = [(package, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        (found, *_) = distributions(name=name, path=site.getsitepackages())
        yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in (extras or {""})]
            if requirement.marker is None or any(requirement.marker.evaluate(env) for env in environments):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


def environment(python: Path) -> dict[str, str]:
    """Variables for a process that runs there, and sees the source of this repository."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return clean | {"PATH": f"{python.parent}:{os.environ['PATH']}", "VIRTUAL_ENV": str(python.parent.parent)}
