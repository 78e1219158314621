"""Importing: a bundle's own files, each under a name of its own."""

import importlib.util
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from mcdropout.catalogue.manifest import BundleError
from mcdropout.engine.faults import refusing


class _FromSource(SourceFileLoader):
    """Compiles what a file holds now. Bytecode that was kept is taken for current where size and time are the same,
    which they may be of another version."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("no bytecode is kept")


_EXTRAS = {"tokenizers": "texts", "PIL": "images"}
"""What brings packages that bundles import, such as those that `mcdropout init` makes."""


def import_file(path: Path, model: str) -> ModuleType:
    """Import a bundle's file under a name of its own, so that `from .layers import ...` works in it."""
    for place in (path.parent, *(inner for inner in path.parent.rglob("*") if inner.is_dir())):
        sys.path_importer_cache[str(place)] = FileFinder(str(place), (_FromSource, SOURCE_SUFFIXES))
    package = f"_mcdropout_bundle_{''.join(c if c.isalnum() else '_' for c in model)}_{abs(hash(path.resolve()))}"
    parent = ModuleType(package)
    parent.__path__ = [str(path.parent)]
    name = f"{package}.{path.stem}"
    for stale in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        del sys.modules[stale]
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[package] = parent
    sys.modules[name] = code
    with refusing(f"{path}: cannot be imported", kind=BundleError):
        try:
            spec.loader.exec_module(code)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in _EXTRAS:
                raise BundleError(
                    f"{path}: cannot be imported: {missing} is not installed; "
                    f"pip install 'mcdropout[{_EXTRAS[missing]}]' mends it"
                ) from error
            if not missing or not ((path.parent / f"{missing}.py").is_file() or (path.parent / missing).is_dir()):
                raise
            raise BundleError(
                f"{path}: cannot be imported: {missing!r} is imported as a package that is installed, and lies in the "
                f"bundle; its own files by a leading dot, as in from .{missing} import ..., are accepted"
            ) from error
    return code
