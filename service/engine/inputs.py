"""What a caller hands to the engine, checked: examples, rows and options."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.errors import InvalidInputError
from service.engine.runtimes import Array

Task = Literal["classification", "regression"]
RuntimeName = Literal["auto", "sparse", "onnx", "torch", "eager"]
Inputs = npt.ArrayLike | Tensor | tuple[npt.ArrayLike | Tensor, ...]


@dataclass(frozen=True)
class InputSpec:
    """One input of a network: its shape without the rows, and its NumPy dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check_options(
    task: str, runtime: str, device: str, temperature: float, noise_variance: float | None, interval: float
) -> None:
    """Raise InvalidInputError for the first option that cannot be used."""
    if task not in get_args(Task):
        raise InvalidInputError(f"task is {task!r}; {_listed(Task)} would be accepted")
    if runtime not in get_args(RuntimeName):
        raise InvalidInputError(f"runtime is {runtime!r}; {_listed(RuntimeName)} would be accepted")
    if known_device(device) != "cpu" and runtime in ("sparse", "onnx"):
        raise InvalidInputError(f'runtime is {runtime!r}, which runs on the CPU; on {device!r}, "torch" is accepted')
    if not 0.0 < temperature < np.inf:
        raise InvalidInputError(f"temperature is {temperature!r}; a number above 0 is accepted")
    if noise_variance is not None and not 0.0 < noise_variance < np.inf:
        raise InvalidInputError(f"noise_variance is {noise_variance!r}; a number above 0, or None, is accepted")
    if not 0.0 < interval < 1.0:
        raise InvalidInputError(f"interval is {interval!r}; a number between 0 and 1 is accepted")


def _listed(names: Any) -> str:
    *first, last = (f'"{name}"' for name in get_args(names))
    return f"{', '.join(first)} or {last}"


def known_device(device: str) -> str:
    """`device`, if PyTorch has it."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InvalidInputError(f'device is {device!r}; "cpu", "cuda" or "cuda:N" would be accepted')
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f'device is {device!r}, but PyTorch finds no CUDA device; "cpu" would be accepted')
    return device


def as_tuple(x: Inputs) -> tuple[npt.ArrayLike | Tensor, ...]:
    """The inputs of a network that may take one or several."""
    return x if isinstance(x, tuple) else (x,)


def as_example(x: npt.ArrayLike | Tensor) -> Tensor:
    """An example input, `[rows, ...]`, on the CPU."""
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        example = torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"an example input is no array of numbers: {error}") from error
    if example.dim() < 1 or len(example) < 1:
        raise InvalidInputError(
            f"an example input has the shape {list(example.shape)}; it needs rows, [rows, ...], at least one"
        )
    return example


def as_array(x: npt.ArrayLike | Tensor, spec: InputSpec) -> Array:
    """An input, `[rows, *spec.shape]` of finite numbers, in the network's dtype."""
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the input is no array: {error}") from error
    if array.shape[1:] != spec.shape or array.ndim == 0 or len(array) == 0:
        wanted = ", ".join(["rows", *map(str, spec.shape)])
        raise InvalidInputError(f"the input has the shape {list(array.shape)}; [{wanted}] is accepted")
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise InvalidInputError(f"the input's dtype is {array.dtype}; {spec.dtype} is accepted")
    with np.errstate(over="ignore"):
        taken = np.ascontiguousarray(array, spec.dtype)
    if not np.isfinite(taken).all():
        position = np.argwhere(~np.isfinite(taken))[0].tolist()
        raise InvalidInputError(f"the input holds NaN or infinity at {position}; finite numbers are accepted")
    if np.issubdtype(spec.dtype, np.integer) and (changed := taken != array).any():
        position = np.argwhere(changed)[0].tolist()
        raise InvalidInputError(
            f"the input holds {array[tuple(position)]} at {position}; numbers of {spec.dtype} are accepted"
        )
    return taken
