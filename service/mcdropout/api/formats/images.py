"""PNG and JPEG: an image as the one row of a model, and a map of one row as an image of grey values."""

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mcdropout.api.formats import answers
from mcdropout.api.formats.format import Format, Written
from mcdropout.catalogue.arrays import declared, rows_of_arrays
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.images import image_of
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.arrays import Array
from mcdropout.engine.ragged import Rows
from mcdropout.engine.statistics import TASKS
from mcdropout.predictions import Answered, InvalidAskError, Pause

_WHITE = 255
_OF_CLASSES = ("entropy", "expected_entropy", "mutual_information")
_OTHERWISE = "fields=label or fields=entropy of one row, or an answer as application/x-npy, is accepted"


def read(name: str, body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Rows, ...]:
    """The one row that an image is, for a model whose one input is made of images."""
    if len(inputs) > 1:
        raise RowsError(
            f"the content is one image, and this model takes {[spec.name for spec in inputs]}; application/json with "
            '{"b64": "..."} for those that are made of images is accepted'
        )
    row = image_of("the content", body, inputs[0], (name,))
    pause()
    return rows_of_arrays([(declared("the content", inputs[0], row.dtype, row.shape, most), row)], most, pause)


def write_map(answered: Answered, pause: Pause) -> Written:
    """One statistic of one row at each place, as grey values: classes by their numbers, others from 0 to 255.

    `X-MCDropout-White` says which value 255 stands for: the greatest that there may be.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidAskError(
            "an answer as image/png is asked for, for which this server lacks Pillow (pip install "
            "'mcdropout[images]'); application/x-npy is accepted"
        ) from error
    names = answered.view.fields or ("label",)
    task = TASKS[answered.shown[0].prediction.task]
    if len(set(names)) > 1 or answered.rows > 1 or names[0] not in task.by_name:
        raise InvalidAskError(
            f"{', '.join(names)} of {answered.rows} rows of a {task.name} are asked for as one image; {_OTHERWISE}"
        )
    ((name, values),) = answers.fields_of(answered, names[:1]).items()
    if values.ndim != 3:
        raise InvalidAskError(f"{name} has the shape {list(values.shape[1:])}, which is no map; {_OTHERWISE}")
    is_class = task.by_name[name].is_class
    white = _WHITE if is_class else _greatest(answered, name)
    if is_class and values.max() > _WHITE:
        raise InvalidAskError(f"{name} has classes up to {values.max()}, and an image 256 grey values; {_OTHERWISE}")
    grey = values[0].astype(np.uint8) if is_class else _scaled(values[0], white)
    pause()
    written = io.BytesIO()
    Image.fromarray(grey).save(written, "PNG")
    return Written(written.getvalue(), answers.headers_of(answered) | {"X-MCDropout-White": repr(float(white))})


def _scaled(values: Array, white: float) -> Array:
    scaled: Array = np.rint(np.clip(values / white, 0.0, 1.0) * _WHITE).astype(np.uint8)
    return scaled


def _greatest(answered: Answered, name: str) -> float:
    """The greatest value that a statistic may have in a place."""
    reading = answered.model.engine.reading
    if reading.task == "classification" and name in _OF_CLASSES and reading.class_axis is not None:
        _, answer = answered.answer.parts[0]
        return float(np.log(answer.prediction.mean.shape[reading.class_axis]))
    if reading.task == "binary" and name in _OF_CLASSES:
        return float(np.log(2.0))
    if name == "variation_ratio" or (reading.task == "binary" and name == "mean"):
        return 1.0
    raise InvalidAskError(f"{name} of a {reading.task} has no greatest value that 255 could stand for; {_OTHERWISE}")


def is_of_images(inputs: Sequence[Input]) -> bool:
    """Whether a model of such inputs takes an image for a row."""
    return len(inputs) == 1 and inputs[0].image is not None


def _file(name: str) -> dict[str, Any]:
    return {
        "type": "string",
        "format": "binary",
        "description": f"A {name} file, the one row of a model whose one input is made of images.",
    }


PNG = Format(
    name="a PNG image",
    media_types=("image/png",),
    read=partial(read, "PNG"),
    write=write_map,
    body_schema=_file("PNG"),
    answer_schema={
        "type": "string",
        "format": "binary",
        "description": "One field of one row in each place, label where none is named, of 8 bits: classes by their "
        "numbers, others from 0 to the greatest that there may be, which X-MCDropout-White tells.",
    },
    takes=is_of_images,
    grows=lambda body: True,
    answer_headers=answers.HEADERS | {"X-MCDropout-White": "Of image/png: what 255 stands for."},
)

JPEG = Format(
    name="a JPEG image",
    media_types=("image/jpeg",),
    read=partial(read, "JPEG"),
    write=None,
    body_schema=_file("JPEG"),
    takes=is_of_images,
    grows=lambda body: True,
)
