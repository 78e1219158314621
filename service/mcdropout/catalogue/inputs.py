"""Inputs: what a client sends for each row, as `model.yaml` declares it, and what the network gets of it."""

import math
import re
import sys
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from mcdropout.catalogue.records import Axis, Image, NotTruth, Number, Preprocessing, Record
from mcdropout.engine.arrays import Array
from mcdropout.engine.sizes import Dimension, Named

_ORDINARY_SIZE = 24
_MOST_NUMBERS = 2**32  # of one row
_MOST_FLOAT = sys.float_info.max
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")


def _size_or_name(value: Any) -> Any:
    if not (type(value) is int and value > 0) and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ValueError(
            f"is {value!r}; a size, an integer from 1 on, or a name such as tokens, for one that differs from row to "
            "row, is accepted"
        )
    return value


def _numbered(value: Any) -> Any:
    """The names of a list, each with its number."""
    if not isinstance(value, list):
        return value
    if len(set(map(repr, value))) < len(value):
        raise ValueError(f"is {value!r}; names that differ are accepted")
    return {name: number for number, name in enumerate(value)}


Name = Annotated[str, Field(min_length=1, max_length=100)]
_SizeOrName = Annotated[int, Field(gt=0)] | Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
_Codes = Annotated[
    dict[Name, Number],
    BeforeValidator(_numbered, json_schema_input_type=dict[Name, Number] | list[Name]),
    Field(min_length=1),
]
_FLOATS = "float16, bfloat16, float32 and float64"
Dtype = Literal[
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "uint16", "int8", "uint8", "bool"
]
"""What a network may take."""


class Input(Record):
    """What a client sends for one row.

    Attributes:
        name: what a client calls it and, where the network takes its inputs by keyword, the network too.
        shape: of one row, without the row dimension; empty for one number a row. A name in place of a size is of one
            that differs from row to row; the manifest's `sizes` say which are accepted.
        dtype: what the network takes. bfloat16, for a PyTorch network, is float32 until it gets there.
        minimum, maximum: the least and the most value that is accepted; any where not given.
        missing: whether null, which the network gets as NaN, is "allowed" or "refused".
        preprocessing: what is done to the values before the network sees them.
        row_axis: the dimension that holds the rows in what the network takes. Clients send them first.
        image: how an image becomes a row; none is taken where not given.
        columns: for rows of a table, their names in order; a row may then be an object of these.
        categories: by the name of a column whose values are names, the number of each; a list numbers them from 0 on.
    """

    name: Name = "input"
    shape: list[Annotated[int | str, BeforeValidator(_size_or_name, json_schema_input_type=_SizeOrName)]]
    dtype: Dtype = "float32"
    minimum: Annotated[int | Number | None, NotTruth] = None
    maximum: Annotated[int | Number | None, NotTruth] = None
    missing: Literal["refused", "allowed"] = "refused"
    preprocessing: Preprocessing = Preprocessing()
    row_axis: Axis = 0
    image: Image | None = None
    columns: Annotated[list[Name], Field(min_length=1)] | None = None
    categories: dict[Name, _Codes] = Field(default={})
    _named: dict[str, Named] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "Input":
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"minimum is {low} and maximum is {high}; a minimum of at most the maximum is accepted")
        if self.row_axis > len(self.shape):
            raise ValueError(
                f"row_axis is {self.row_axis}; 0 to {len(self.shape)} is accepted where the shape is {self.shape}"
            )
        return self

    @model_validator(mode="after")
    def _fits_in_memory(self) -> "Input":
        numbers = math.prod(size for size in self.shape if isinstance(size, int))
        if numbers > _MOST_NUMBERS:
            raise ValueError(
                f"shape is {self.shape}, which is {numbers} numbers a row; at most {_MOST_NUMBERS} are accepted"
            )
        return self

    @model_validator(mode="after")
    def _channels_fit(self) -> "Input":
        for name in ("mean", "std"):
            value = getattr(self.preprocessing, name)
            if isinstance(value, list) and self.shape[:1] != [len(value)]:
                raise ValueError(
                    f"preprocessing.{name} has {len(value)} entries; one number, or one for each entry of the shape's "
                    f"first dimension, {self.shape[:1]}, is accepted"
                )
        return self

    @model_validator(mode="after")
    def _image_fits(self) -> "Input":
        if self.image is None:
            return self
        self.image.check_shape(self.shape)
        if self.kind == "b" or (self.kind != "f" and self.image.values != Preprocessing()):
            raise ValueError(
                f"image is given for the dtype {self.dtype}; it is accepted for {_FLOATS}, and without values for "
                "whole numbers"
            )
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> "Input":
        columns = self.columns or []
        if self.columns is not None and self.shape != [len(columns)]:
            raise ValueError(
                f"columns has {len(columns)} names, and shape is {self.shape}; as many as the one size of the shape "
                "are accepted"
            )
        if self.name in columns or len(set(columns)) < len(columns):
            raise ValueError(
                f"columns is {columns}; names that differ, and are not the input's own, {self.name!r}, are accepted"
            )
        for column, codes in self.categories.items():
            if column not in columns:
                raise ValueError(f"categories names the column {column!r}; of columns, {columns}, one is accepted")
            for name, code in codes.items():
                self._check_code(f"categories.{column}.{name}", code)
        return self

    def _check_code(self, field: str, code: float) -> None:
        if self.kind == "b":
            raise ValueError(f"{field} is given for the dtype bool, which is true or false; none is accepted")
        whole = self.kind == "f" or code == int(code)
        least, most = (None, None) if self.kind == "f" else self.bounds_of_dtype
        low, high = least if self.minimum is None else self.minimum, most if self.maximum is None else self.maximum
        if not whole or (low is not None and code < low) or (high is not None and code > high):
            raise ValueError(
                f"{field} is {code:g}; a {'number' if self.kind == 'f' else 'whole number'} from "
                f"{'any' if low is None else low} to {'any' if high is None else high} is accepted"
            )

    @model_validator(mode="after")
    def _fields_fit_the_dtype(self) -> "Input":
        if self.kind != "f" and self.takes_missing:
            raise ValueError(
                f"missing is allowed for the dtype {self.dtype}, which has no NaN; it is accepted for {_FLOATS}"
            )
        if self.kind != "f" and self.preprocessing != Preprocessing():
            raise ValueError(f"preprocessing is given for the dtype {self.dtype}; it is accepted for {_FLOATS}")
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.kind == "f":
                if abs(value) > _MOST_FLOAT:
                    raise ValueError(f"{name} is an integer too large for a float; at most {_MOST_FLOAT:g} is accepted")
                continue
            if self.kind == "b":
                raise ValueError(f"{name} is {value} for the dtype bool, which is true or false; none is accepted")
            lowest, highest = self.bounds_of_dtype
            if value != int(value) or not lowest <= value <= highest:
                raise ValueError(
                    f"{name} is {value}; for the dtype {self.dtype} a whole number from {lowest} to {highest} is "
                    "accepted"
                )
        return self

    def within(self, lowest: int | None, highest: int | None, taken: np.dtype[Any]) -> "Input":
        """The same where the network takes numbers of the dtype `taken`, and whole ones between these alone.

        Raises:
            ValueError: a minimum or a maximum is accepted that the network does not take.
        """
        low, high = self.minimum, self.maximum
        if self.kind == "i" and taken.kind in "iu":
            limits, (least, most) = np.iinfo(taken), self.bounds_of_dtype
            if limits.min > least:
                lowest = int(limits.min) if lowest is None else max(lowest, int(limits.min))
            if limits.max < most:
                highest = int(limits.max) if highest is None else min(highest, int(limits.max))
        if lowest is not None and low is not None and low < lowest:
            raise ValueError(f"the input {self.name!r} has the minimum {low}; the network takes {lowest} or more")
        if highest is not None and high is not None and high > highest:
            raise ValueError(f"the input {self.name!r} has the maximum {high}; the network takes {highest} or less")
        same = self.model_copy(
            update={"minimum": lowest if low is None else low, "maximum": highest if high is None else high}
        )
        same.__dict__["network_dtype"] = taken
        return same

    def name_sizes(self, named: dict[str, Named]) -> None:
        """Take in what is accepted for the names in the shape, which the manifest says for all inputs."""
        self._named = named

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Its shape, with what is accepted for each name."""
        return tuple(self._named[size] if isinstance(size, str) else size for size in self.shape)

    @cached_property
    def varies(self) -> bool:
        """Whether a size differs from row to row."""
        return any(isinstance(size, str) for size in self.shape)

    @cached_property
    def kind(self) -> str:
        """The kind of the dtype: "f" of floats, "i" of whole numbers, and "b" of booleans."""
        return self.array_dtype.kind.replace("u", "i")

    @cached_property
    def array_dtype(self) -> np.dtype[Any]:
        """The dtype of its rows as arrays; NumPy has no bfloat16, whose numbers float32 holds."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    @cached_property
    def network_dtype(self) -> np.dtype[Any]:
        """The dtype that the network itself takes, as `within` was told, since an ONNX file may take another."""
        return self.array_dtype

    @property
    def takes_missing(self) -> bool:
        """Whether values may be missing."""
        return self.missing == "allowed"

    @cached_property
    def bounds_of_dtype(self) -> tuple[int, int]:
        """The smallest and the largest number of an integer dtype."""
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    def prepare(self, rows: npt.NDArray[Any]) -> Array:
        """Rows `[rows, *shape]` as sent, to the network's values and dtype; infinite where they do not fit it."""
        if self.kind != "f":
            return rows.astype(self.network_dtype)
        steps = self.preprocessing
        with np.errstate(over="ignore"):
            scaled: npt.NDArray[np.float64] = np.multiply(rows, steps.scale, dtype=np.float64)
            if steps.mean != 0.0 or steps.std != 1.0:
                per_channel = [-1] + [1] * (len(self.shape) - 1)
                mean, std = (
                    np.reshape(value, per_channel) if isinstance(value, list) else value
                    for value in (steps.mean, steps.std)
                )
                scaled = (scaled - mean) / std
            return scaled.astype(self.network_dtype)

    def random(self, rows: int, generator: np.random.Generator) -> Array:
        """Rows `[rows, *shape]` of values that are accepted, as the network takes them.

        Sizes that may differ are the same in all of them. Numbers lie between `minimum` and `maximum`, or near the one
        of them that is given, or from 0 to 1; those of 8 bits are any that these hold; booleans are all true.

        Raises:
            ValueError: it takes integers and does not say which, or numbers that are infinite to the network.
        """
        shape = (rows, *(_ordinary(size) if isinstance(size, Named) else size for size in self.dimensions))
        low, high = self.minimum, self.maximum
        if self.kind == "b":
            return np.ones(shape, bool)
        if self.kind == "i":
            if self.array_dtype.itemsize == 1:
                least, most = self.bounds_of_dtype
                low, high = least if low is None else low, most if high is None else high
            if low is None or high is None:
                raise ValueError(
                    f"the input {self.name!r} takes {self.dtype} and lacks a minimum or a maximum, so that no example "
                    "rows can be drawn for it; both are accepted"
                )
            return generator.integers(int(low), int(high), shape, self.array_dtype, endpoint=True)
        low = min(0.0, 0.0 if high is None else high - 1.0) if low is None else low
        high = max(1.0, low + 1.0) if high is None else high
        rows_drawn = self.prepare(2.0 * generator.uniform(low / 2.0, high / 2.0, shape))  # high - low may be infinite
        if not np.isfinite(rows_drawn).all():
            raise ValueError(
                f"the input {self.name!r} takes values from {low:g} to {high:g}, of which preprocessing and "
                f"{self.dtype} make infinite ones; a minimum and a maximum that stay finite are accepted"
            )
        return rows_drawn


def _ordinary(dimension: Named) -> int:
    """A size for examples."""
    return min(dimension.values, key=lambda size: abs(size - _ORDINARY_SIZE))
