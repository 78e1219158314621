"""What a caller hands to the engine, checked: examples, rows and options."""

from collections.abc import Mapping, Sequence
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
OneInput = npt.ArrayLike | Tensor
Inputs = OneInput | tuple[OneInput, ...] | Mapping[str, OneInput]


@dataclass(frozen=True)
class InputSpec:
    """One input of a network: its shape without the rows, its NumPy dtype, its keyword, and where it has its rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str | None = None
    row_axis: int = 0

    @property
    def label(self) -> str:
        """How messages call it."""
        return "the input" if self.name is None else f"the input {self.name!r}"


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


def as_tuple(x: Inputs) -> tuple[OneInput, ...]:
    """The inputs of a network that may take one or several."""
    if isinstance(x, Mapping):
        return tuple(x.values())
    return x if isinstance(x, tuple) else (x,)


def in_order(x: Inputs, specs: Sequence[InputSpec]) -> tuple[OneInput, ...]:
    """The inputs in the order of `specs`, whether they are given by position or by name."""
    names = [spec.name for spec in specs]
    if isinstance(x, Mapping):
        if set(x) != set(names):
            wanted = f"{names} are accepted" if names[0] is not None else "inputs by position are accepted"
            raise InvalidInputError(f"the inputs {list(x)} were given; {wanted}")
        return tuple(x[name] for name in names if name is not None)
    given = as_tuple(x)
    if len(given) != len(specs):
        raise InvalidInputError(f"{len(given)} inputs were given; the network takes {len(specs)}")
    return given


def row_axes(x: Inputs, given: int | Sequence[int] | Mapping[str, int]) -> tuple[int, ...]:
    """For each input, the dimension that holds the rows."""
    count = len(as_tuple(x))
    if isinstance(given, int):
        return (given,) * count
    if isinstance(given, Mapping):
        names = list(x) if isinstance(x, Mapping) else []
        if unknown := [name for name in given if name not in names]:
            raise InvalidInputError(f"row_axis names {unknown}; the inputs are {names}")
        return tuple(given.get(name, 0) for name in names)
    if len(given) != count:
        raise InvalidInputError(f"row_axis has {len(given)} entries; one for each of {count} inputs is accepted")
    return tuple(given)


def as_example(x: OneInput, row_axis: int = 0) -> Tensor:
    """An example input on the CPU, brought to `[rows, ...]`."""
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        example = torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"an example input is no array of numbers: {error}") from error
    if example.dim() <= row_axis or example.shape[row_axis] < 1:
        place = "[rows, ...]" if row_axis == 0 else f"in its dimension {row_axis}"
        raise InvalidInputError(
            f"an example input has the shape {list(example.shape)}; it needs rows, {place}, at least one"
        )
    return example.movedim(row_axis, 0)


def as_array(x: OneInput, spec: InputSpec) -> Array:
    """An input, of finite numbers, as `[rows, *spec.shape]` in the network's dtype."""
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{spec.label} is no array: {error}") from error
    wanted: list[Any] = [*spec.shape[: spec.row_axis], "rows", *spec.shape[spec.row_axis :]]
    if array.ndim != len(wanted) or any(
        size < 1 if want == "rows" else size != want for size, want in zip(array.shape, wanted, strict=True)
    ):
        shape = ", ".join(map(str, wanted))
        raise InvalidInputError(f"{spec.label} has the shape {list(array.shape)}; [{shape}] is accepted")
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise InvalidInputError(f"{spec.label}'s dtype is {array.dtype}; {spec.dtype} is accepted")
    if spec.row_axis:
        array = np.moveaxis(array, spec.row_axis, 0)
    with np.errstate(over="ignore"):
        taken = np.ascontiguousarray(array, spec.dtype)
    if not np.isfinite(taken).all():
        position = np.argwhere(~np.isfinite(taken))[0].tolist()
        raise InvalidInputError(f"{spec.label} holds NaN or infinity at {position}; finite numbers are accepted")
    if np.issubdtype(spec.dtype, np.integer) and (changed := taken != array).any():
        position = np.argwhere(changed)[0].tolist()
        raise InvalidInputError(
            f"{spec.label} holds {array[tuple(position)]} at {position}; numbers of {spec.dtype} are accepted"
        )
    return taken
