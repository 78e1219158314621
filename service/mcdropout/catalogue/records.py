"""Records: the small mappings that `model.yaml` is made of."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mcdropout.engine.sizes import LARGEST

PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Axis = Annotated[int, Field(ge=0, strict=True)]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"is {value}; a number is accepted")
    return value


NotTruth = BeforeValidator(_no_truth)
"""What is true or false is no number, though Python takes it for 1 or 0."""
Number = Annotated[float, Field(allow_inf_nan=False), NotTruth]


class Record(BaseModel):
    """A mapping in `model.yaml`: its fields, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SizeRange(Record):
    """The sizes that are accepted where they differ from row to row; `[minimum, maximum]` is short for it.

    Attributes:
        minimum, maximum: the least and the most.
        multiple: of what they are multiples.
    """

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


_CHANNELS = {"grey": 1, "rgb": 3}


class Image(Record):
    """How an image, as a file, becomes a row.

    Attributes:
        mode: "grey" or "rgb", whatever the file has: 0 to 255 for each channel of each pixel.
        layout: the order of channel, height and width in the input's shape: "CHW" or "HWC", or "HW" without a channel.
        resize: what becomes of an image of another size: "none", it is refused; "stretch", to the input's height and
            width, whatever its own are to one another; "crop", resized so as to cover these, and its middle taken.
        values: what is made of 0 to 255; the result is what a client would otherwise send, and `preprocessing` follows.
    """

    mode: Literal["grey", "rgb"]
    layout: Literal["CHW", "HWC", "HW"] = "CHW"
    resize: Literal["none", "stretch", "crop"] = "none"
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

    def size_of(self, shape: "list[int | str] | tuple[Any, ...]") -> tuple[Any, Any]:
        """Height and width in the shape of a row."""
        return shape[self.layout.index("H")], shape[self.layout.index("W")]
