"""What a caller hands to the engine, checked: examples, rows and options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.errors import InvalidInputError, first_line
from mcdropout.engine.nesting import flattened, is_path
from mcdropout.engine.sizes import Dimension, Named, accepts
from mcdropout.engine.trials import unlike_rows

if TYPE_CHECKING:
    from torch import Tensor

OneInput = Union[npt.ArrayLike, "Tensor"]
Inputs = OneInput | tuple[Any, ...] | Mapping[str, Any]
"""One, a tuple by position, or a mapping by keyword; each an array, or arrays in lists, tuples and dicts."""
Shape = Sequence[int | str]
"""Of one row: sizes, and names of sizes that may differ from row to row."""
Shapes = Shape | Sequence[Shape] | Mapping[str, Shape]
Bounds = Mapping[str, tuple[int, int] | tuple[int, int, int]]
"""For each name the least and the most size, and, where there is a third number, of what they are multiples."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        shape: without the rows.
        dtype: as NumPy has it.
        name: its keyword; None where it is given by position.
        row_axis: the dimension that holds the rows.
        missing: whether NaN may stand for what is missing.
        lowest, highest: the whole numbers that it takes lie between these; None for any.
    """

    shape: tuple[Dimension, ...]
    dtype: np.dtype[Any]
    name: str | None = None
    row_axis: int = 0
    missing: bool = False
    lowest: int | None = None
    highest: int | None = None

    @property
    def range(self) -> str:
        """The whole numbers that it takes, in words."""
        if self.highest is None:
            return f"{self.lowest} or more"
        return f"{self.highest} or less" if self.lowest is None else f"{self.lowest} to {self.highest}"

    @cached_property
    def label(self) -> str:
        """How messages call it."""
        return "the input" if self.name is None else f"the input {self.name!r}"


def as_tuple(x: Inputs) -> tuple[OneInput, ...]:
    """The inputs of a network that may take one or several."""
    if isinstance(x, Mapping):
        return tuple(x.values())
    return x if isinstance(x, tuple) else (x,)


def in_order(x: Inputs, specs: Sequence[InputSpec]) -> tuple[OneInput, ...]:
    """The inputs in the order of `specs`, whether they are given by position or by name."""
    if len(specs) == 1 and specs[0].name is None and not isinstance(x, tuple | Mapping):
        return (x,)
    names = [spec.name for spec in specs]
    if any(name is not None and is_path(name) for name in names):
        x = flattened(x)
    if isinstance(x, Mapping):
        if set(x) != set(names):
            wanted = f"{names} are accepted" if names[0] is not None else "inputs by position are accepted"
            raise InvalidInputError(f"the inputs {list(x)} were given; {wanted}")
        return tuple(x[name] for name in names if name is not None)
    given = as_tuple(x)
    if len(given) != len(specs):
        raise InvalidInputError(f"{len(given)} inputs were given; the network takes {len(specs)}")
    return given


def as_axis(name: str, value: object) -> int:
    """A dimension that an argument names."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(f"{name} is {value!r}; a dimension, an integer of 0 or more, is accepted")
    return int(value)


def row_axes(x: Inputs, given: int | Sequence[int] | Mapping[str, int]) -> tuple[int, ...]:
    """For each input, the dimension that holds the rows."""
    count = len(as_tuple(x))
    if not count:
        raise InvalidInputError("there are no example inputs; one or more are accepted")
    if isinstance(given, Mapping):
        names = list(x) if isinstance(x, Mapping) else []
        if unknown := [name for name in given if name not in names]:
            raise InvalidInputError(f"row_axis names {unknown}; the inputs are {names}")
        return tuple(as_axis(f"row_axis of {name}", given.get(name, 0)) for name in names)
    if not isinstance(given, list | tuple):
        return (as_axis("row_axis", given),) * count
    if len(given) != count:
        raise InvalidInputError(f"row_axis has {len(given)} entries; one for each of {count} inputs is accepted")
    return tuple(as_axis("row_axis", axis) for axis in given)


def as_examples(x: Inputs, axes: Sequence[int], rows: int) -> tuple[Array, ...]:
    """Example inputs, each brought to `[rows, ...]`, with rows that differ, but for masks in floats.

    These are zeros and ones in the shape of an input of whole numbers; fractions would be no mask.

    Raises:
        InvalidInputError: one of them is no array, or holds no row.
    """
    if isinstance(x, tuple | Mapping):  # by itself, a list of arrays is one array, row by row
        for value in as_tuple(x):
            _check_not_nested(value)
    given = [_rows_first(value, axis, label) for value, axis, label in zip(as_tuple(x), axes, _labels(x), strict=True)]
    tokens = {value.shape for value in given if np.issubdtype(value.dtype, np.integer)}
    return tuple(
        with_rows(value, rows)
        if value.shape in tokens and np.issubdtype(value.dtype, np.floating) and np.isin(value, (0, 1)).all()
        else unlike_rows(with_rows(value, rows), len(value))
        for value in given
    )


def check_finite(x: Inputs, arrays: Sequence[Array], missing: bool) -> None:
    """Raise InvalidInputError where examples, as `as_examples` made them of `x`, hold what no request may."""
    for label, array in zip(_labels(x), arrays, strict=True):
        if array.dtype.kind != "f" or not (wrong := np.isinf(array) if missing else ~np.isfinite(array)).any():
            continue
        position = tuple(np.argwhere(wrong)[0].tolist())
        accepted = (
            "finite numbers and NaN are accepted"
            if missing
            else "finite numbers are accepted, and NaN with missing=True (in model.yaml, missing: allowed)"
        )
        raise InvalidInputError(f"{label} holds {array[position]} at {list(position)}; {accepted}")


def _labels(x: Inputs) -> list[str]:
    """How messages call each example: by its keyword, or by its position where there are several."""
    if isinstance(x, Mapping):
        return [f"the example input {name!r}" for name in x]
    count = len(as_tuple(x))
    return ["the example input"] if count == 1 else [f"the example input {index}" for index in range(count)]


_BOUND = (
    "an array with rows is accepted; what is the same for every row is left out, or bound to the network beforehand, "
    "as in module.forward = functools.partial(module.forward, name=value)"
)


def _rows_first(x: OneInput, row_axis: int, label: str) -> Array:
    if x is None or isinstance(x, str | bytes | bool | int | float):
        raise InvalidInputError(f"{label} is {x!r}; {_BOUND}")
    check_whole(x, label)
    try:
        array = _array(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{label} is no array of numbers ({first_line(error)})") from error
    if array.dtype.kind not in "fiub":
        found = f"it is of type {type(x).__name__}" if array.dtype.kind == "O" else f"its dtype is {array.dtype}"
        raise InvalidInputError(
            f"{label} is no array of numbers: {found}; an array of real numbers or truth values is accepted"
        )
    if not array.ndim:
        raise InvalidInputError(f"{label} is one number, {array}, of the shape []; {_BOUND}")
    if array.ndim <= row_axis or array.shape[row_axis] < 1:
        place = "[rows, ...]" if row_axis == 0 else f"in its dimension {row_axis}"
        raise InvalidInputError(f"{label} has the shape {list(array.shape)}; it needs rows, {place}, at least one")
    return np.moveaxis(array, row_axis, 0)


def check_whole(x: object, label: str) -> None:
    """Raise InvalidInputError where some of an input is not there: entries that are masked, or steps of some rows."""
    if isinstance(x, np.ma.MaskedArray) and (hidden := np.ma.getmaskarray(x)).any():
        raise InvalidInputError(
            f"{label} is a masked array, whose entry at {np.argwhere(hidden)[0].tolist()} is masked; one without such "
            "entries is accepted, as x.filled(value) makes it, with NaN where the network takes what is missing"
        )
    if getattr(x, "is_nested", False):
        raise InvalidInputError(
            f"{label} is a nested tensor, whose rows differ in length; a tensor in which they are padded is accepted, "
            "with their lengths or a mask as another input"
        )


def _check_not_nested(x: object) -> None:
    """Refuse what holds arrays, where one array is looked for."""
    held = list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, list | tuple) else []
    if isinstance(x, Mapping) or any(hasattr(each, "shape") for each in held):
        raise InvalidInputError(
            f"an example input is a {type(x).__name__} of {len(held)}; an array for each input of the graph is accepted"
        )


def _array(x: Any) -> Array:
    """A tensor, an array, or what can be made one; NumPy has no bfloat16, whose numbers float32 holds."""
    if not hasattr(x, "detach"):
        return np.asarray(x)
    try:
        array: Array = x.numpy(force=True)
    except TypeError:  # as it is of bfloat16
        array = x.float().numpy(force=True)
    return array


def is_bfloat16(x: Any) -> bool:
    """Whether something is a tensor of bfloat16."""
    return str(getattr(x, "dtype", None)) == "torch.bfloat16"


def as_array(x: OneInput, spec: InputSpec) -> Array:
    """An input, of finite numbers (and NaN where they may be missing), as `[rows, *spec.shape]` in its dtype."""
    check_whole(x, spec.label)
    try:
        array = _array(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{spec.label} is no array ({first_line(error)})") from error
    if spec.row_axis or array.shape[1:] != spec.shape or not len(array):
        _check_shape(array, spec)
        array = np.moveaxis(array, spec.row_axis, 0)
    if array.dtype == spec.dtype:
        taken = np.ascontiguousarray(array)
    elif may_hold(spec.dtype, array.dtype):
        with np.errstate(over="ignore"):
            taken = np.ascontiguousarray(array, spec.dtype)
    else:
        raise InvalidInputError(f"{spec.label}'s dtype is {array.dtype}; {spec.dtype} is accepted")
    if taken.dtype.kind in "fc" and not np.isfinite(taken).all():
        _check_finite(taken, spec)
    if taken is not array and spec.dtype.kind in "iub" and (changed := taken != array).any():
        position = np.argwhere(changed)[0].tolist()
        accepted = "0 and 1" if spec.dtype.kind == "b" else f"numbers of {spec.dtype}"
        raise InvalidInputError(f"{spec.label} holds {array[tuple(position)]} at {position}; {accepted} are accepted")
    if spec.lowest is not None or spec.highest is not None:
        _check_range(taken, spec)
    return taken


def _check_shape(array: Array, spec: InputSpec) -> None:
    wanted: list[Any] = [*spec.shape[: spec.row_axis], "rows", *spec.shape[spec.row_axis :]]
    if array.ndim != len(wanted) or any(not _is_of(size, want) for size, want in zip(array.shape, wanted, strict=True)):
        shape = ", ".join(map(str, wanted))
        raise InvalidInputError(f"{spec.label} has the shape {list(array.shape)}; [{shape}] is accepted")


def _check_finite(array: Array, spec: InputSpec) -> None:
    """Of an array that holds NaN or infinity."""
    wrong = np.isinf(array) if spec.missing else ~np.isfinite(array)
    if wrong.any():
        position = np.argwhere(wrong)[0].tolist()
        found, accepted = ("infinity", "and NaN ") if spec.missing else ("NaN or infinity", "")
        raise InvalidInputError(f"{spec.label} holds {found} at {position}; finite numbers {accepted}are accepted")


def may_hold(dtype: np.dtype[Any], given: np.dtype[Any]) -> bool:
    """Whether a dtype is for numbers of another: whole ones may fit, as may 0 and 1 truth values, and are looked at."""
    return (given.kind in "iu" and dtype.kind in "iub") or np.can_cast(given, dtype, "same_kind")


def _check_range(array: Array, spec: InputSpec) -> None:
    low = -np.inf if spec.lowest is None else spec.lowest
    high = np.inf if spec.highest is None else spec.highest
    if array.size and not (array.min() >= low and array.max() <= high):
        position = np.argwhere((array < low) | (array > high))[0].tolist()
        raise InvalidInputError(
            f"{spec.label} holds {array[tuple(position)]} at {position}; {spec.range} is what the network takes"
        )


def _is_of(size: int, want: Any) -> bool:
    """Whether a size is one that is wanted; of rows, at least one is."""
    return size >= 1 if want == "rows" else accepts(want, size)


def dimensions_of(x: Inputs, shapes: Shapes | None, sizes: Bounds | None) -> list[tuple[Dimension, ...]] | None:
    """The dimensions of one row of each input; None where none has a name.

    Args:
        x: the examples.
        shapes: of one row of each, in the form of `x`.
        sizes: what is accepted for each name in them.

    Raises:
        InvalidInputError: they do not fit one another.
    """
    if shapes is None:
        if sizes:
            raise InvalidInputError(
                f"sizes names {list(sizes)}, and there are no shapes; shapes that name them are accepted"
            )
        return None
    if not isinstance(shapes, Sequence | Mapping) or isinstance(shapes, str):
        raise InvalidInputError(f"shapes is {shapes!r}; the shape of a row is accepted, sizes or names of sizes")
    if not isinstance(sizes or {}, Mapping):
        raise InvalidInputError(f"sizes is {sizes!r}; for each name in shapes the least and the most are accepted")
    each = _shape_of_each(x, shapes)
    named = {name: _named(name, given) for name, given in (sizes or {}).items()}
    used = {size for shape in each for size in shape if isinstance(size, str)}
    if used != set(named):
        raise InvalidInputError(f"shapes names {sorted(used)} and sizes {sorted(named)}; the same names are accepted")
    return [tuple(named[size] if isinstance(size, str) else size for size in shape) for shape in each]


def _shape_of_each(x: Inputs, shapes: Shapes) -> list[Shape]:
    count = len(as_tuple(x))
    if isinstance(shapes, Mapping):
        names = list(x) if isinstance(x, Mapping) else []
        if set(shapes) != set(names):
            raise InvalidInputError(f"shapes names {list(shapes)}; the inputs are {names}")
        return [shapes[name] for name in names]
    given: list[Any] = list(shapes)
    if not isinstance(x, tuple | Mapping) and not any(isinstance(one, list | tuple) for one in given):
        given = [given]
    if len(given) != count or any(isinstance(one, str | int) for one in given):
        raise InvalidInputError(f"shapes is {shapes!r}; the shape of a row for each of {count} inputs is accepted")
    return given


def _named(name: str, given: object) -> Named:
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise InvalidInputError(
            f"the sizes of {name!r} are {given!r}; the least and the most, as (1, 64), are accepted"
        )
    named = Named(name, *given)
    named.check()
    return named
