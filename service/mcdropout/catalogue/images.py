"""Images: PNG and JPEG files to rows, as an input's `image` says. What a file's header says is checked first.

Decoded by Pillow, which is imported when the first image comes: it is an extra of the package.
"""

import base64
import binascii
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.records import Preprocessing
from mcdropout.engine.sizes import accepts

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**24
"""Of a file: 48 MiB while it is decoded, three times that at most with what becomes of it."""
MOST_NUMBERS = 2**24
"""Of all images of a request together: small files may hold large pictures."""
FORMATS = ("PNG", "JPEG")

_FIELD = "b64"
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_OPAQUE = 255
# Of a PNG: the signature, the length and the name of its first chunk, width and height, and the bits of a channel.
_PNG, _DEPTH_AT, _DEEP = b"\x89PNG\r\n\x1a\n", 24, 16
_SHOWN = 100


def are_images(value: Any) -> bool:
    """Whether a JSON value is meant as an image, or as several: `{"b64": ...}`."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and _FIELD in first


def images_of(label: str, value: Any, spec: Input, pause: Callable[[], None]) -> list[npt.NDArray[Any]]:
    """The rows of a JSON value that is an image, or a list of them, each `{"b64": ...}`, as a client would send them.

    Args:
        label: how messages call it.
        value: the JSON value.
        spec: the input.
        pause: called after each.

    Raises:
        RowsError: one of them is no image, or not of the input.
    """
    listed = isinstance(value, list)
    rows: list[npt.NDArray[Any]] = []
    numbers = 0
    for index, one in enumerate(value if listed else [value]):
        called = f"row {index} of {label}" if listed else label
        rows.append(image_of(called, _content(called, one), spec))
        numbers += rows[-1].size
        if numbers > MOST_NUMBERS:
            raise RowsError(
                f"{label} holds images that are more than {MOST_NUMBERS} numbers, by row {index}; fewer rows are "
                "accepted at once"
            )
        pause()
    return rows


def _content(label: str, value: Any) -> bytes:
    if not isinstance(value, dict) or set(value) != {_FIELD} or not isinstance(value[_FIELD], str):
        found = f"the names {sorted(value)[:5]}"[:_SHOWN] if isinstance(value, dict) else type(value).__name__
        raise RowsError(f'{label} holds {found}; an image as {{"{_FIELD}": "..."}} is accepted beside others')
    try:
        return base64.b64decode(value[_FIELD], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowsError(f"{label} is no base64 ({error}); that of a PNG or JPEG file is accepted") from error


def image_of(label: str, content: bytes, spec: Input, formats: tuple[str, ...] = FORMATS) -> npt.NDArray[Any]:
    """A row of an image, as a client would send it.

    Args:
        label: how messages call it.
        content: the file.
        spec: the input.
        formats: which it may be.

    Raises:
        RowsError: it cannot be read, or not become a row.
    """
    if spec.image is None:
        raise RowsError(
            f"{label} is an image, and the input {spec.name!r} is not made of images: its model.yaml has no `image:`, "
            "such as {mode: grey}; with it images, without it numbers are accepted"
        )
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise RowsError(
            f"{label} is an image, for which this server lacks Pillow (pip install 'mcdropout[images]'); numbers are "
            "accepted"
        ) from error
    try:
        if content.startswith(_PNG) and "PNG" in formats:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                _check_header(label, image, content, spec)
                image.verify()  # that it is whole; it has to be opened anew
        with Image.open(io.BytesIO(content), formats=formats) as image:
            _check_header(label, image, content, spec)
            picture = _opaque(label, ImageOps.exif_transpose(image))
        picture = _sized(label, picture.convert("L" if spec.image.mode == "grey" else "RGB"), spec)
    except (RowsError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise RowsError(f"{label} is an image of far more than {MOST_PIXELS} pixels, which are accepted") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise RowsError(
            f"{label} cannot be read as {' or '.join(formats)} ({type(error).__name__}: {str(error)[:_SHOWN]}); a "
            "whole file of these is accepted"
        ) from error
    return _arranged(np.asarray(picture), spec)


def _check_header(label: str, image: "Image", content: bytes, spec: Input) -> None:
    """Refuse an image by what is known before it is decoded."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise RowsError(f"{label} is an image of {width} x {height} pixels; at most {MOST_PIXELS} are accepted")
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise RowsError(f"{label} is animated, of {getattr(image, 'n_frames', 1)} images; one is accepted")
    is_deep = image.format == "PNG" and content[_DEPTH_AT : _DEPTH_AT + 1] == bytes([_DEEP])
    if is_deep or image.mode not in _MODES:
        found = "has 16 bits a channel" if is_deep else f"has the mode {image.mode}"
        raise RowsError(f"{label} {found}; grey, RGB or a palette, of 8 bits a channel, is accepted")
    if not _fits(height, width, spec) and not _fits(width, height, spec):
        raise _of_another_size(label, width, height, spec)


def _fits(height: int, width: int, spec: Input) -> bool:
    """Whether an image of this size is accepted."""
    assert spec.image is not None
    wanted = spec.image.size_of(spec.dimensions)
    return spec.image.resize != "none" or all(map(accepts, wanted, (height, width)))


def _of_another_size(label: str, width: int, height: int, spec: Input) -> RowsError:
    assert spec.image is not None
    high, wide = spec.image.size_of(spec.dimensions)
    return RowsError(f"{label} is {width} pixels wide and {height} high; {wide} wide and {high} high is accepted")


def _opaque(label: str, image: "Image") -> "Image":
    """An image without its alpha channel, which would say how much of something else is seen."""
    if "A" not in image.mode and "transparency" not in image.info:
        return image
    with_alpha = image.convert("RGBA")
    least = np.asarray(with_alpha.getchannel("A")).min()
    if least < _OPAQUE:
        raise RowsError(f"{label} is transparent in places, by {least} of {_OPAQUE}; an image that is not is accepted")
    return with_alpha.convert("RGB")


def _sized(label: str, image: "Image", spec: Input) -> "Image":
    """An image in the size that the input takes."""
    from PIL import ImageOps
    from PIL.Image import Resampling

    assert spec.image is not None
    width, height = image.size
    if not _fits(height, width, spec):
        raise _of_another_size(label, width, height, spec)
    if spec.image.resize == "none":
        return image
    high, wide = spec.image.size_of(spec.dimensions)
    how = Resampling[spec.image.filter.upper()]
    if spec.image.resize == "stretch":
        return image.resize((wide, high), how)
    if spec.image.shorter is None:
        return ImageOps.fit(image, (wide, high), how)
    scaled = image.resize(_by_shorter(width, height, spec.image.shorter), how)
    left, top = (scaled.width - wide) // 2, (scaled.height - high) // 2
    return scaled.crop((left, top, left + wide, top + high))


def _by_shorter(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height where the shorter of them is to be that, as torchvision and transformers round them."""
    if width <= height:
        return shorter, shorter * height // width
    return shorter * width // height, shorter


def _arranged(pixels: npt.NDArray[np.uint8], spec: Input) -> npt.NDArray[Any]:
    """Pixels, `[height, width]` or with channels behind these, as the values and in the layout of an input."""
    assert spec.image is not None
    values: npt.NDArray[Any] = pixels.reshape(*pixels.shape[:2], -1)
    steps = spec.image.values
    if steps != Preprocessing():
        values = (values * np.float64(steps.scale) - np.asarray(steps.mean)) / np.asarray(steps.std)
    if spec.image.layout == "HW":
        return values[:, :, 0]
    return values if spec.image.layout == "HWC" else np.moveaxis(values, 2, 0)
