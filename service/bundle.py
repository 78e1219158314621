"""Bundles: a model's folder on disk, and what its `model.yaml` may say."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

MANIFEST = "model.yaml"

PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class BundleError(Exception):
    """A bundle cannot be read. The message names file and field, what was found, and what would be accepted."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Record):
    """From what a client sends to what the network takes: `(x * scale - mean) / std`.

    `mean` and `std` are numbers, or a list with one for each entry of the input's first dimension (its channels).
    """

    scale: Number = 1.0
    mean: Number | list[Number] = 0.0
    std: Number | list[Number] = 1.0

    @field_validator("std")
    @classmethod
    def _not_zero(cls, value: float | list[float]) -> float | list[float]:
        if 0.0 in (value if isinstance(value, list) else [value]):
            raise ValueError("0 cannot be divided by; any other number is accepted")
        return value


class Input(_Record):
    """What a client sends for one row.

    Attributes:
        name: what the input is called in the model's description.
        shape: of one row, without the row dimension.
        dtype: what the network takes.
        minimum, maximum: the values accepted; None for any.
        preprocessing: what is done to the values before the network sees them.
    """

    name: str = "input"
    shape: list[PositiveInt]
    dtype: Literal["float32", "float64"] = "float32"
    minimum: Number | None = None
    maximum: Number | None = None
    preprocessing: Preprocessing = Preprocessing()

    @model_validator(mode="after")
    def _channels_fit(self) -> "Input":
        for name in ("mean", "std"):
            value = getattr(self.preprocessing, name)
            if isinstance(value, list) and (not self.shape or len(value) != self.shape[0]):
                raise ValueError(
                    f"preprocessing.{name} has {len(value)} entries; one number, or one for each entry of the shape's "
                    f"first dimension, {self.shape[:1]}, is accepted"
                )
        return self

    def prepare(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows `[rows, *shape]` as sent, to the network's values and dtype."""
        steps = self.preprocessing
        scaled = rows.astype(np.float64) * steps.scale
        if steps.mean != 0.0 or steps.std != 1.0:
            per_channel = [-1] + [1] * (len(self.shape) - 1)
            mean, std = (
                np.reshape(value, per_channel) if isinstance(value, list) else value
                for value in (steps.mean, steps.std)
            )
            scaled = (scaled - mean) / std
        return scaled.astype(self.dtype)


class Passes(_Record):
    """How many stochastic passes a request gets where it names none, and the most that it may ask for."""

    default: Annotated[int, Field(ge=0, strict=True)] = 50
    maximum: PositiveInt = 1000

    @model_validator(mode="after")
    def _default_allowed(self) -> "Passes":
        if self.default > self.maximum:
            raise ValueError(f"default is {self.default}; at most maximum, {self.maximum}, is accepted")
        return self


class Manifest(_Record):
    """What `model.yaml` says.

    Attributes:
        name: the model's name, which is its folder's.
        version: any text; every answer carries it.
        task: "classification" or "regression".
        labels: the classes' names, in the order of the network's outputs; their numbers where not given.
        input: what a client sends.
        passes: default and most stochastic passes.
        network: `file.py:Name`, a class or function in the bundle that returns the network.
        arguments: what it is called with.
        weights: a file in the bundle: `.safetensors`, or a state dict that `torch.load(weights_only=True)` reads.
        temperature: what logits are divided by before the softmax.
        noise_variance: for regression, the variance of the noise (`1 / tau`) where the network predicts none.
        interval: for regression, the share of the predictive distribution that the interval holds.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: Annotated[str, Field(min_length=1, max_length=100)]
    description: str = ""
    task: Literal["classification", "regression"]
    labels: list[str] | None = None
    input: Input
    passes: Passes = Passes()
    network: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*\.py:[A-Za-z_]\w*$")]
    arguments: dict[str, Any] = {}
    weights: str
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    noise_variance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    interval: Annotated[float, Field(gt=0, lt=1)] = 0.95


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
        self.manifest = _read_manifest(folder / MANIFEST)
        if self.manifest.name != folder.resolve().name:
            raise BundleError(
                f"{folder / MANIFEST}: name is {self.manifest.name!r}; the folder's name, "
                f"{folder.resolve().name!r}, is accepted"
            )

    def load_network(self) -> nn.Module:
        """The network with its weights, in eval mode. Runs the bundle's own code.

        Raises:
            BundleError: the code or the weights do not load, or do not fit each other.
        """
        file, _, name = self.manifest.network.partition(":")
        network = self._build(self._inside("network", file), name)
        weights = self._inside("weights", self.manifest.weights)
        try:
            network.load_state_dict(_read_weights(weights))
        except RuntimeError as error:
            raise BundleError(f"{weights}: the weights do not fit {self.manifest.network}: {error}") from error
        return network.eval()

    def _build(self, path: Path, name: str) -> nn.Module:
        code = _import(path, self.manifest.name)
        factory = getattr(code, name, None)
        if factory is None:
            defined = [key for key, value in vars(code).items() if inspect.isclass(value) or inspect.isfunction(value)]
            raise BundleError(f"{path}: it defines no {name!r}; one of {defined} is accepted in network")
        try:
            network = factory(**self.manifest.arguments)
        except Exception as error:
            raise BundleError(f"{path}: {name}(**{self.manifest.arguments}) fails: {error}") from error
        if not isinstance(network, nn.Module):
            raise BundleError(f"{path}: {name} returns {type(network).__name__}; a torch.nn.Module is accepted")
        return network

    def _inside(self, field: str, file: str) -> Path:
        path = self.folder / file
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
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


def _read_manifest(path: Path) -> Manifest:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BundleError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds {type(content).__name__}; a mapping of fields is accepted")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        raise BundleError(f"{path}: {'; '.join(problems)}") from error


def _describe(problem: Any) -> str:
    field = ".".join(map(str, problem["loc"])) or "(file)"
    if problem["type"] == "missing":
        return f"{field}: is missing and required"
    if problem["type"] == "extra_forbidden":
        return f"{field}: is no known field; {', '.join(Manifest.model_fields)} are accepted at the top"
    return f"{field}: is {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _import(path: Path, model: str) -> ModuleType:
    """Import a bundle's file under a name of its own, so that `from .layers import ...` works in it."""
    package = f"_mcdropout_bundle_{''.join(c if c.isalnum() else '_' for c in model)}_{abs(hash(path.resolve()))}"
    parent = ModuleType(package)
    parent.__path__ = [str(path.parent)]
    name = f"{package}.{path.stem}"
    for stale in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        del sys.modules[stale]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[package] = parent
    sys.modules[name] = code
    try:
        spec.loader.exec_module(code)
    except Exception as error:
        raise BundleError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return code


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, from a format that runs no code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise BundleError(f"{path}: cannot be read as weights: {error}") from error
    except Exception as error:  # weights_only raises what the unpickler does
        raise BundleError(
            f"{path}: holds more than tensors, or is damaged; a .safetensors file or a state dict that "
            "torch.load(weights_only=True) reads is accepted"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(f"{path}: holds {type(state).__name__}; a state dict, names to tensors, is accepted")
    return state
