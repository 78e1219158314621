"""Local models: a bundle, loaded into the process of who asks, which predicts as a server of it would."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.catalogue.arrays import declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.loading import load as load_model
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.rows import read_rows
from mcdropout.engine import Engine
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.ragged import Rows
from mcdropout.engine.statistics import TASKS, Prediction

_ACCEPTED = "arrays, lists, texts, records, images and what else a request may hold are accepted"


@dataclass(frozen=True)
class LocalModel:
    """A bundle that predicts in this process: what clients send goes in, labels come out. Thread-safe.

    Attributes:
        model: the bundle, and its engine.
    """

    model: Model

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.model.name

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.model.version

    @property
    def task(self) -> str:
        """What it answers, "classification" for instance."""
        return self.engine.task

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of its classes, in the order of the statistics; None where they are numbers."""
        labels = self.model.bundle.manifest.labels
        return None if labels is None else tuple(labels)

    @property
    def engine(self) -> Engine:
        """What predicts: for rows as the network takes them."""
        return self.model.engine

    def __repr__(self) -> str:
        taken = ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in self.model.takes)
        return f"LocalModel({self.name!r}, version {self.version!r}, {self.task}, takes {taken})"

    def predict(self, inputs: Any, passes: int | None = None, seed: int | None = None) -> Prediction:
        """The prediction for each row, and how far to trust it, as a server gives it for the same seed.

        Args:
            inputs: what a request would hold as its `inputs`: rows, or one row, as lists or arrays; a dict of such for
                several inputs; records or a DataFrame, where the bundle has `columns`; texts, where it has
                `preprocess`; images of Pillow, or paths of PNG and JPEG files, where it has `image`.
            passes: how many stochastic passes; the bundle's default if not given; 0 for the deterministic baseline.
            seed: 0 to 2**64 - 1; drawn where none is given. The prediction says which.

        Returns:
            The prediction, whose `label` has the bundle's labels, where there are any.

        Raises:
            InvalidInputError: naming what was given and what would be accepted.
            UnusableOutputError, FailedRowsError: as `Engine.predict` does.
        """
        manifest = self.model.bundle.manifest
        try:
            rows = self._rows(inputs)
        except RowsError as error:
            raise InvalidInputError(str(error)) from error
        placed = [
            np.moveaxis(x, 0, spec.row_axis) if isinstance(x, np.ndarray) else list(x)
            for x, spec in zip(rows, manifest.takes, strict=True)
        ]
        by_name = manifest.inputs_by == "keyword"
        given: Any = {x.name: row for x, row in zip(manifest.takes, placed, strict=True)} if by_name else tuple(placed)
        found = self.engine.predict(given, manifest.passes.default if passes is None else passes, seed)
        return found if self.labels is None else replace(found, values=_labelled(found, self.labels))

    def _rows(self, inputs: Any) -> tuple[Rows, ...]:
        """Rows as the network takes them."""
        takes = self.model.takes
        named = inputs if isinstance(inputs, Mapping) and set(inputs) == {spec.name for spec in takes} else None
        values = [named[spec.name] for spec in takes] if named is not None else [inputs]
        arrays = [x for x in map(_array, values) if x is not None and x.dtype.kind in "fiub"]
        if len(arrays) == len(takes):
            headers = [
                declared(f"inputs.{spec.name}", spec, x.dtype, x.shape, None)
                for spec, x in zip(takes, arrays, strict=True)
            ]
            return rows_of_arrays(list(zip(headers, arrays, strict=True)), None, lambda: None)
        try:
            text = orjson.dumps({"inputs": _as_sent(inputs)}, default=_as_json)
        except orjson.JSONEncodeError as error:
            raise InvalidInputError(f"inputs cannot be used: {error.__cause__ or error}; {_ACCEPTED}") from error
        return read_rows(text, takes, hook=self.model.bundle.hook)


def load(folder: str | Path, *, device: str = "cpu") -> LocalModel:
    """A bundle as an object that predicts in this process, without a server.

    It is verified as a server verifies it, and compiled first where it is not compiled, or has changed since.

    Args:
        folder: of the bundle, with its `model.yaml`.
        device: where a PyTorch network runs: "cpu", "cuda" or "cuda:N".

    Raises:
        BundleError: the bundle is wrong.
        EngineError: its network cannot be served.
    """
    return LocalModel(load_model(Path(folder), Loading(device)))


def _labelled(found: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """The statistics, classes by their labels."""
    names = np.asarray(labels, object)
    fields = TASKS[found.task].by_name
    return {
        name: value if value is None or not fields[name].is_class else names[np.asarray(value, np.int64)]
        for name, value in found.values.items()
    }


def _array(value: Any) -> npt.NDArray[Any] | None:
    """An array, of NumPy or of PyTorch; None for what is none."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return value if isinstance(value, np.ndarray) and value.ndim else None


def _as_sent(inputs: Any) -> Any:
    """What stands in a request for tables and images."""
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        return inputs.to_dict("records")
    if _is_image(inputs):
        return _image(inputs)
    if isinstance(inputs, list | tuple) and any(map(_is_image, inputs)):
        return [_image(each) if _is_image(each) else each for each in inputs]
    return inputs


def _is_image(value: Any) -> bool:
    return isinstance(value, os.PathLike) or (hasattr(value, "save") and hasattr(value, "convert"))


def _image(value: Any) -> dict[str, str]:
    if isinstance(value, os.PathLike):
        try:
            content = Path(value).read_bytes()
        except OSError as error:
            raise InvalidInputError(
                f"{os.fspath(value)!r} cannot be read: {error}; a PNG or JPEG is accepted"
            ) from error
    else:
        body = io.BytesIO()
        value.save(body, "PNG")
        content = body.getvalue()
    return {"b64": base64.b64encode(content).decode()}


def _as_json(value: Any) -> Any:
    """What stands for arrays, and for numbers of NumPy, in JSON."""
    array = _array(value) if not isinstance(value, np.generic) else np.asarray(value)
    if array is None:
        raise TypeError(f"it holds an object of {type(value).__name__}")
    return array.tolist()
