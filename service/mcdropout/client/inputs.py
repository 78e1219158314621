"""Inputs: what a user has, NumPy arrays, lists, tables or images, as the body of a prediction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from mcdropout.client.arrow import MEDIA_TYPE, stream_of
from mcdropout.client.description import InputDescription
from mcdropout.client.errors import UnusableInputsError
from mcdropout.client.images import is_image, pixels_of
from mcdropout.client.tables import Table, columns_of, inputs_of_table, is_frame, table_of_frame

_NUMBERS = "numbers, true, false, and NaN or None for what is missing, are accepted"


@dataclass(frozen=True)
class Body:
    """What asks for a prediction."""

    content: bytes
    content_type: str = "application/json"


def need_description(inputs: object) -> bool:
    """Whether it takes the model's description to know how inputs are to be sent."""
    return isinstance(inputs, Table) or is_frame(inputs) or is_image(inputs) or _holds_images(inputs)


def body_of(
    inputs: Any,
    described: Sequence[InputDescription] | None = None,
    formats: Sequence[str] = (),
    *,
    texts: bool = False,
) -> Body:
    """The body that asks for a prediction of inputs: JSON, or Arrow for a DataFrame whose columns a model names.

    Args:
        inputs: as `Client.predict` takes them; bytes are JSON as it is sent.
        described: what the model takes, where `need_description` says that it is needed.
        formats: the media types of the bodies that it takes.
        texts: whether it takes texts, which are then no paths of images.

    Raises:
        UnusableInputsError: they cannot be sent.
    """
    if isinstance(inputs, bytes):
        return Body(inputs)
    if texts and _is_text(inputs):
        inputs = [inputs] if isinstance(inputs, str) else inputs
    elif need_description(inputs):
        assert described is not None
        if is_frame(inputs) and MEDIA_TYPE in formats and (stream := _stream_of_frame(inputs, described)) is not None:
            return Body(stream, MEDIA_TYPE)
        if is_image(inputs):
            inputs = pixels_of(inputs, described)
        elif _holds_images(inputs):
            inputs = [pixels_of(image, described) for image in inputs]
        else:
            inputs = inputs_of_table(inputs if isinstance(inputs, Table) else table_of_frame(inputs), described)
    try:
        content = orjson.dumps({"inputs": inputs}, default=_as_json)
    except orjson.JSONEncodeError as error:
        cause = error.__cause__
        raise (
            cause
            if isinstance(cause, UnusableInputsError)
            else UnusableInputsError(
                f"inputs cannot be written as JSON: {error}; arrays, lists, tables and images of numbers are accepted"
            )
        ) from error
    if b"null" in content:
        _check_finite(inputs)
    return Body(content)


def _stream_of_frame(frame: Any, described: Sequence[InputDescription]) -> bytes | None:
    """A DataFrame as Arrow; None where JSON is to hold it, which has whole numbers of floats that are whole."""
    names = columns_of(tuple(map(str, frame.columns)), described)
    if names is None or not len(frame) or any(one.takes_whole_numbers for one in described):
        return None
    return stream_of(frame, names)


def _is_text(inputs: object) -> bool:
    return isinstance(inputs, str) or (
        isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(text, str) for text in inputs)
    )


def _holds_images(inputs: object) -> bool:
    return isinstance(inputs, (list, tuple)) and bool(inputs) and all(map(is_image, inputs))


def _as_json(value: Any) -> Any:
    """What stands for a value in JSON: an array as lists, its floats as float64s, which other parsers read alike."""
    if isinstance(value, Mapping):
        return dict(value)
    array = np.asarray(value)
    if array.dtype == object:
        if isinstance(value, np.ndarray):
            return array.tolist()
        raise UnusableInputsError(f"inputs holds a {type(value).__name__}; {_NUMBERS}")
    if array.dtype.kind not in "fiub":
        raise UnusableInputsError(f"inputs holds an array of {array.dtype}; {_NUMBERS}")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        if np.isinf(array).any():
            raise UnusableInputsError(f"inputs holds infinity; {_NUMBERS}")
    if array.ndim == 0:
        return array.item()
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return orjson.Fragment(orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY))


def _check_finite(value: Any) -> None:
    """Refuse infinity in nested lists, which JSON has no word for: null is for what is missing."""
    if isinstance(value, Mapping):
        for one in value.values():
            _check_finite(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _check_finite(one)
    elif isinstance(value, float) and math.isinf(value):
        raise UnusableInputsError(f"inputs holds infinity; {_NUMBERS}")
