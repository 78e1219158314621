"""Images: PIL images, and files of them, as the one input of a model that takes pixels."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.client.description import InputDescription
from mcdropout.client.errors import UnusableInputsError

_MODES = {1: "L", 3: "RGB"}
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_MOST = 255.0  # of a pixel


def is_image(value: object) -> bool:
    """Whether a value is a PIL image, or the path of a file."""
    pillow = sys.modules.get("PIL.Image")
    return isinstance(value, (str, os.PathLike)) or (pillow is not None and isinstance(value, pillow.Image))


def pixels_of(image: Any, inputs: Sequence[InputDescription]) -> npt.NDArray[Any]:
    """An image as one row of a model: in its shape, in grey or RGB, and in its range of values.

    Args:
        image: a PIL image, or the path of a file.
        inputs: what the model takes.

    Returns:
        `[channels, height, width]`, `[height, width, channels]` or `[height, width]`, as the input's shape says; from
        0 to 255 where its maximum is that, or its dtype holds no more, and from 0 to 1 where its maximum is 1.

    Raises:
        UnusableInputsError: the model takes no images, or another size, or does not say in which range; or the file
            is no image.
        ModuleNotFoundError: Pillow is not installed.
    """
    if len(inputs) != 1:
        raise UnusableInputsError(
            f"an image was given, and the model takes {len(inputs)} inputs; arrays by their names are accepted"
        )
    (one,) = inputs
    channels, height, width, axis = _layout(one)
    scale = _scale(one)
    opened = _opened(image)
    found = (opened.height, opened.width)
    if any(isinstance(size, int) and size != given for size, given in zip((height, width), found, strict=True)):
        raise UnusableInputsError(
            f"the image is {found[0]} pixels high and {found[1]} wide; {height} high and {width} wide, the shape "
            f"{list(one.shape)} of the input {one.name!r}, is accepted: image.resize(({width}, {height})) makes it so"
        )
    pixels: npt.NDArray[Any] = np.asarray(_without_alpha(opened).convert(_MODES[channels]))
    if channels == 3 and axis == 0:
        pixels = np.moveaxis(pixels, -1, 0)
    elif channels == 1 and axis is not None:
        pixels = np.expand_dims(pixels, axis)
    return pixels if scale == 1.0 else pixels * scale


def _layout(one: InputDescription) -> tuple[int, int | str, int | str, int | None]:
    """Channels, height and width of an input, and the dimension that holds the channels; None for none of it."""
    shape = one.shape
    if len(shape) == 2:
        return 1, shape[0], shape[1], None
    if len(shape) == 3:
        leading, trailing = shape[0] in _MODES, shape[2] in _MODES
        if leading and not trailing:
            return int(shape[0]), shape[1], shape[2], 0
        if trailing and not leading:
            return int(shape[2]), shape[0], shape[1], 2
        if leading and trailing:
            raise UnusableInputsError(
                f"an image was given, and the shape {list(shape)} of the input {one.name!r} does not say which "
                "dimension holds the channels; an array of that shape is accepted"
            )
    raise UnusableInputsError(
        f"an image was given, and the input {one.name!r} has the shape {list(shape)}; images are accepted for "
        "[height, width], and with 1 or 3 channels in front or behind. Arrays of the shape are accepted"
    )


def _scale(one: InputDescription) -> float:
    """What pixels of 0 to 255 are multiplied by."""
    if one.minimum in (0, None) and (one.maximum == _MOST or (one.maximum is None and one.dtype == "uint8")):
        return 1.0
    if one.minimum == 0 and one.maximum == 1 and "float" in one.dtype:
        return 1.0 / _MOST
    raise UnusableInputsError(
        f"an image was given, and the input {one.name!r} takes {one.dtype} with minimum {one.minimum} and maximum "
        f"{one.maximum}, which does not say how bright white is; 0 and 255, or 0 and 1, do. An array is accepted"
    )


def _opened(image: Any) -> Any:
    """The image, decoded and upright."""
    pillow, operations = _pillow()
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        try:
            with pillow.open(path) as file:
                image = operations.exif_transpose(file)
        except (OSError, ValueError, pillow.DecompressionBombError) as error:
            raise UnusableInputsError(f"{str(path)!r} cannot be read as an image: {error}") from error
    if image.mode not in _EIGHT_BITS:
        raise UnusableInputsError(
            f"the image has the mode {image.mode!r}; those of 8 bits a channel, such as L and RGB, are accepted"
        )
    return image


def _without_alpha(image: Any) -> Any:
    """The image, if no pixel of it is transparent: what would be behind it is not known."""
    if not image.has_transparency_data:
        return image
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    if int(alpha.min()) < int(_MOST):
        raise UnusableInputsError(
            "the image is transparent in places; one that is opaque is accepted, such as after "
            "Image.alpha_composite(background, image)"
        )
    return image.convert("RGB") if image.mode in ("RGBA", "P", "PA") else image


def _pillow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("PIL.Image"), importlib.import_module("PIL.ImageOps")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "images take Pillow, which is not installed; pip install 'mcdropout[client-all]' mends it", name=error.name
        ) from error
