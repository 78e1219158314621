"""Records: the small mappings that `model.yaml` is made of."""

import inspect
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mcdropout.engine.sizes import LARGEST

_MOST_PASSES = 1_000_000_000
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Axis = Annotated[int, Field(ge=0, strict=True)]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"is {value}; a number is accepted")
    return value


NotTruth = BeforeValidator(_no_truth)
"""What is true or false is no number, though Python takes it for 1 or 0."""
Number = Annotated[float, Field(allow_inf_nan=False), NotTruth]
# Not `Annotated[Number, ...]`: of bounds behind a validator pydantic's JSON Schema says nothing.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NotTruth]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), NotTruth]
"""Between 0 and 1."""


_ATTRIBUTES = "\n\nAttributes:\n"
_OF_ATTRIBUTES = re.compile(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


class Record(BaseModel):
    """A mapping in `model.yaml`: its fields, and no others.

    What the docstring of a record says of it and, below "Attributes:", of its fields, its JSON Schema says too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    SHORT: ClassVar[tuple[JsonSchemaValue, ...]] = ()
    """JSON Schemas of what is short for such a mapping."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        mapping = handler.resolve_ref_schema(found)
        about, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition(_ATTRIBUTES)
        mapping["description"] = _in_one_line(about)
        for names, text in _OF_ATTRIBUTES.findall(attributes):
            for name in names.split(", "):
                called = cls.model_fields[name].alias or name
                mapping["properties"][called]["description"] = _in_one_line(text)
        return {"anyOf": [found, *cls.SHORT]} if cls.SHORT else found


def _in_one_line(text: str) -> str:
    return f"{text[:1].upper()}{' '.join(text[1:].split())}"


class Passes(Record):
    """How many stochastic passes a request gets.

    Attributes:
        default: where it names no number of them.
        maximum: the most that it may ask for.
    """

    default: Annotated[int, Field(ge=0, strict=True)] = 50
    maximum: Annotated[PositiveInt, Field(le=_MOST_PASSES)] = 1000

    @model_validator(mode="after")
    def _default_allowed(self) -> "Passes":
        if self.default > self.maximum:
            raise ValueError(f"default is {self.default}; at most maximum, {self.maximum}, is accepted")
        return self


class Rates(Record):
    """Which p requests may have sites drop with in place of their own. Networks are not trained so.

    Attributes:
        minimum: the least.
        maximum: the greatest.
    """

    minimum: Share = 0.01
    maximum: Share = 0.95

    @model_validator(mode="after")
    def _in_order(self) -> "Rates":
        if self.minimum > self.maximum:
            raise ValueError(f"minimum is {self.minimum}; at most maximum, {self.maximum}, is accepted")
        return self


class AddedDropout(Record):
    """Dropout behind a module, or a node of an ONNX graph; a number alone is short for its p.

    Attributes:
        p: the probability that it drops.
        kind: what it drops: an "element", or a "channel" of `[rows, channels, ...]`.
    """

    p: Share
    kind: Literal["element", "channel"] = "element"

    SHORT = ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},)

    @model_validator(mode="before")
    @classmethod
    def _p_alone(cls, value: Any) -> Any:
        return value if isinstance(value, dict | AddedDropout) else {"p": value}


class Dropout(Record):
    """Which sites are on, by patterns of module paths as in a shell (`encoder.*`); the network's own path is "".

    Of an ONNX model they are patterns of the names of nodes, and of values where dropout is added.

    Attributes:
        include: a site is on only if its path matches one of these.
        exclude: a site is off if its path matches one of these.
        p: a probability to use instead of the network's own, for each pattern; the first that matches counts.
        add: dropout for a network that was trained without it, or whose file was written without it: for each pattern a
            probability, or a p and a kind. The outputs of the modules or nodes that match are dropped from; the first
            pattern that matches counts. include, exclude and p are about the network's own dropout.
    """

    include: list[str] = Field(default=["*"], min_length=1)
    exclude: list[str] = Field(default=[])
    p: dict[str, Annotated[float, Field(ge=0, le=1), NotTruth]] = Field(default={})
    add: dict[str, AddedDropout] = Field(default={})


class SizeRange(Record):
    """The sizes that are accepted where they differ from row to row; `[minimum, maximum]` is short for it.

    Attributes:
        minimum, maximum: the least and the most size.
        multiple: what all of the sizes are multiples of.
    """

    SHORT = ({"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "minItems": 2, "maxItems": 2},)

    minimum: PositiveInt
    maximum: Annotated[PositiveInt, Field(le=LARGEST)]
    multiple: PositiveInt = 1

    @model_validator(mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 2:
            return dict(zip(("minimum", "maximum"), value, strict=True))
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "SizeRange":
        low, high, multiple = self.minimum, self.maximum, self.multiple
        if low > high or low % multiple or high % multiple:
            raise ValueError(
                f"minimum is {low} and maximum is {high}; multiples of {multiple}, a minimum of at most the maximum, "
                "are accepted"
            )
        return self


class Preprocessing(Record):
    """From what a client sends to what the network takes: `(x * scale - mean) / std`.

    Attributes:
        scale: what values are multiplied by.
        mean: what is subtracted then: a number, or one for each entry of the input's first dimension (its channels).
        std: what that is divided by: a number, or as many.
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


_CHANNELS = {"grey": 1, "rgb": 3}


class Image(Record):
    """How an image, as a file, becomes a row.

    Attributes:
        mode: "grey" or "rgb", whatever the file has: 0 to 255 for each channel of each pixel.
        layout: the order of channel, height and width in the input's shape: "CHW" or "HWC", or "HW" without a channel.
        resize: what becomes of an image of another size: "none", it is refused; "stretch", to the input's height and
            width, whatever its own are to one another; "crop", resized so as to cover these, and its middle taken.
        shorter: with "crop", what the shorter side is resized to before the middle is taken; what just covers height
            and width if not given.
        filter: how it is resized, as Pillow calls it.
        values: what is made of 0 to 255; the result is what a client would otherwise send, and `preprocessing` follows.
    """

    mode: Literal["grey", "rgb"]
    layout: Literal["CHW", "HWC", "HW"] = "CHW"
    resize: Literal["none", "stretch", "crop"] = "none"
    shorter: PositiveInt | None = None
    filter: Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"] = "bilinear"
    values: Preprocessing = Preprocessing()

    @property
    def channels(self) -> int:
        """How many there are."""
        return _CHANNELS[self.mode]

    @model_validator(mode="after")
    def _values_for_each_channel(self) -> "Image":
        for name in ("mean", "std"):
            value = getattr(self.values, name)
            if isinstance(value, list) and len(value) != self.channels:
                raise ValueError(
                    f"values.{name} has {len(value)} entries; one number, or {self.channels}, is accepted for the mode "
                    f"{self.mode}"
                )
        return self

    def check_shape(self, shape: list[int | str]) -> None:
        """Raise ValueError where a row of that shape is no image of this mode and layout."""
        fits = len(shape) == len(self.layout)
        if fits and "C" in self.layout:
            fits = shape[self.layout.index("C")] == self.channels
        if not fits or (self.layout == "HW" and self.mode != "grey"):
            sizes = {"C": str(self.channels), "H": "height", "W": "width"}
            wanted = ", ".join(sizes[letter] for letter in self.layout)
            raise ValueError(
                f"shape is {shape}, and image has the mode {self.mode} and the layout {self.layout}; [{wanted}], or HW "
                "with the mode grey, is accepted for that"
            )
        if self.resize != "none" and any(isinstance(size, str) for size in self.size_of(shape)):
            raise ValueError(
                f"image has resize: {self.resize}, and the shape {shape} names sizes, which differ from row to row; "
                "resize: none is accepted with names"
            )
        if self.shorter is not None and (self.resize != "crop" or self.shorter < max(self.size_of(shape))):
            raise ValueError(
                f"image has shorter: {self.shorter} with resize: {self.resize} and the shape {shape}; with "
                "resize: crop, as much as height and width, or more, is accepted"
            )

    def size_of(self, shape: "list[int | str] | tuple[Any, ...]") -> tuple[Any, Any]:
        """Height and width in the shape of a row."""
        return shape[self.layout.index("H")], shape[self.layout.index("W")]
