"""Bundles: a model's folder on disk."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mcdropout.catalogue.hooks import Hook, load_hook
from mcdropout.catalogue.manifest import MANIFEST, BundleError, read_manifest
from mcdropout.catalogue.rows import RowsError, read_rows
from mcdropout.engine.arrays import Array
from mcdropout.engine.bundled import COMPILED as COMPILED
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.ragged import batches_of
from mcdropout.engine.sizes import Sizing

EXAMPLE = "example.json"
RESULTS = "results.json"
_SMALL_BYTES = 16 * 2**10
_MOST_BYTES = 8 * 2**20


class Bundle:
    """A model's folder.

    Attributes:
        folder: where it lies.
        manifest: what its `model.yaml` says.
    """

    def __init__(self, folder: Path) -> None:
        """Read and check `model.yaml`.

        Raises:
            BundleError: it is missing or wrong.
        """
        self.folder = folder
        self.manifest = read_manifest(folder / MANIFEST)
        called = Path(os.path.abspath(folder)).name  # a link's own name, by which clients and metrics know the model
        if self.manifest.name != called:
            raise BundleError(
                f"{folder / MANIFEST}: name is {self.manifest.name!r}; the folder's name, {called!r}, is accepted"
            )

    @cached_property
    def hook(self) -> Hook | None:
        """What makes rows of what clients send; None where they send rows. Runs the bundle's own code.

        Raises:
            BundleError: it cannot be imported.
        """
        if self.manifest.preprocess is None:
            return None
        path = self.inside("preprocess", self.manifest.preprocess.partition(":")[0])
        return load_hook(path, self.manifest)

    def example(self) -> Any | None:
        """A small body as clients send it, of `example.json`; None where there is none."""
        return self._small_json(EXAMPLE)

    def example_bytes(self) -> bytes | None:
        """The same as it stands in the file, also where it is not small; None where there is none, or a huge one."""
        return self._read(EXAMPLE, _MOST_BYTES)

    def results(self) -> dict[str, Any] | None:
        """What training measured, of `results.json`; None where there is none, or no small one."""
        found = self._small_json(RESULTS)
        return found if isinstance(found, dict) else None

    def _small_json(self, file: str) -> Any | None:
        """What a small file of JSON holds; None where there is none."""
        content = self._read(file, _SMALL_BYTES)
        try:
            return None if content is None else json.loads(content)
        except ValueError:
            return None

    def _read(self, file: str, most: int) -> bytes | None:
        """A file of at most so many bytes; None where there is none."""
        path = self.folder / file
        try:
            return path.read_bytes() if path.stat().st_size <= most else None
        except OSError:
            return None

    def examples(self, count: int) -> tuple[Array, ...]:
        """Rows to try the network on: those of `example.json` where the folder holds one, else random ones.

        Args:
            count: how many random ones; `example.json`, a body as clients send it, says itself how many it has.

        Returns:
            For each input `[rows, *shape]`, as the network takes them, those that are as large as the first.

        Raises:
            BundleError: `example.json` cannot be used, or there is none and no rows can be drawn.
        """
        path = self.folder / EXAMPLE
        if path.exists():
            if not path.is_file():
                raise BundleError(f"{path}: is no regular file; one with rows as a client would send them is accepted")
            try:
                takes = self.manifest.takes
                rows = read_rows(path.read_bytes(), takes, hook=self.hook)
                return batches_of(rows, Sizing(tuple(spec.dimensions for spec in takes), {}))[0].inputs
            except (OSError, RowsError, InvalidInputError) as error:
                raise BundleError(f"{path}: {error}") from error
        generator = np.random.default_rng(0)
        try:
            return tuple(spec.random(count, generator) for spec in self.manifest.takes)
        except ValueError as error:
            raise BundleError(
                f"{self.folder / MANIFEST}: {error}, or rows in {EXAMPLE} such as a client would send"
            ) from error

    def inside(self, field: str, file: str) -> Path:
        """The path of a file that a field of the manifest names.

        Raises:
            BundleError: there is none, or it lies elsewhere.
        """
        path = self.folder / file
        try:
            is_inside = path.resolve().is_relative_to(self.folder.resolve()) and path.is_file()
        except (OSError, ValueError):  # no file can have that name
            is_inside = False
        if not is_inside:
            raise BundleError(f"{self.folder / MANIFEST}: {field} is {file!r}; a file inside the bundle is accepted")
        return path


def find_bundles(folder: Path) -> list[Path]:
    """The folders below `folder` that hold a `model.yaml`, by name.

    Raises:
        BundleError: there are none.
    """
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise BundleError(f"{folder}: no bundle found; a folder that holds <name>/{MANIFEST} is accepted")
    return found


def named_bundles(folder: Path, default: str | None) -> tuple[list[str], str]:
    """The names of a folder's bundles, and of the one that answers where none is named.

    Args:
        folder: of the bundles.
        default: that one; the first by name where None.

    Raises:
        BundleError: the folder holds no bundle, or none of the name `default`.
    """
    names = [path.name for path in find_bundles(folder)]
    if default is not None and default not in names:
        raise BundleError(f"{folder}: the default model is {default!r}; one of {names} is accepted")
    return names, default or names[0]
