"""Examples: rows as a client would send them, to try a network on and to show how it is asked."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.making.draft import DraftInput
from mcdropout.engine.arrays import Array
from mcdropout.engine.sizes import Named

_ORDINARY_SIZE = 24
_MANY_NUMBERS = 3000  # of a row: from there on an example has one, and an image comes as a file
_FEW_ROWS = 3
_DIGITS = 4
Sizes = Mapping[str, tuple[int, int]]


def fields_of(given: DraftInput) -> dict[str, Any]:
    """An input as `model.yaml` declares it, without what it leaves at its default."""
    fields: dict[str, Any] = {"name": given.name, "shape": list(given.shape), "dtype": given.dtype}
    for name in ("minimum", "maximum"):
        if getattr(given, name) is not None:
            fields[name] = getattr(given, name)
    for name in ("image", "preprocessing"):
        if getattr(given, name):
            fields[name] = getattr(given, name)
    return fields


def as_input(given: DraftInput, sizes: Sizes) -> Input:
    """The same as the catalogue has it."""
    made = Input(**fields_of(given))
    made.name_sizes({name: Named(name, *bounds) for name, bounds in sizes.items()})
    return made


def drawn(given: DraftInput, sizes: Sizes, rows: int) -> Array:
    """Rows `[rows, *shape]` as a client might send them."""
    generator = np.random.default_rng(0)
    shape = (rows, *(_size(size, sizes) for size in given.shape))
    if given.dtype == "bool":
        return np.ones(shape, bool)
    low, high = given.minimum, given.maximum
    if "float" not in given.dtype or given.image:
        least = 0 if low is None else int(low)
        return generator.integers(least, max(least, 1 if high is None else int(high)), shape, endpoint=True)
    low = min(0.0, 0.0 if high is None else high - 1.0) if low is None else low
    high = max(1.0, low + 1.0) if high is None else high
    return np.round(generator.uniform(low, high, shape), _DIGITS)


def _size(size: int | str, sizes: Sizes) -> int:
    if isinstance(size, int):
        return size
    least, most = sizes[size]
    return min(max(least, _ORDINARY_SIZE), most)


def prepared(inputs: Sequence[DraftInput], sizes: Sizes, rows: int) -> list[Array]:
    """Rows as the network takes them, for each input."""
    return [as_input(given, sizes).prepare(drawn(given, sizes, rows)) for given in inputs]


def example_of(inputs: Sequence[DraftInput], sizes: Sizes) -> Any:
    """What a client might send as `inputs`."""
    numbers = sum(math.prod(_size(size, sizes) for size in given.shape) for given in inputs)
    rows = _FEW_ROWS if numbers <= _MANY_NUMBERS else 1
    found = {given.name: drawn(given, sizes, rows) for given in inputs}
    (first, *others) = inputs
    if others:
        return found
    if first.image and numbers > _MANY_NUMBERS and find_spec("PIL") is not None:
        return [{"b64": base64.b64encode(_picture(first, sizes)).decode()}]
    return found[first.name]


def _picture(given: DraftInput, sizes: Sizes) -> bytes:
    """A PNG of the size of an input: a bright disc on a slope of grey."""
    from PIL import Image

    shape = [_size(size, sizes) for size in given.shape]
    layout = given.image.get("layout", "CHW")
    height, width = shape[layout.index("H")], shape[layout.index("W")]
    down, right = np.mgrid[0:height, 0:width]
    disc = (down - height / 2) ** 2 + (right - width / 2) ** 2 < (min(height, width) / 4) ** 2
    pixels: npt.NDArray[np.uint8] = np.where(disc, 230, 40 + 120 * right // width).astype(np.uint8)
    picture = Image.fromarray(pixels)
    body = io.BytesIO()
    (picture if given.image["mode"] == "grey" else picture.convert("RGB")).save(body, "PNG", optimize=True)
    return body.getvalue()
