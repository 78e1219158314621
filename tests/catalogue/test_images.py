"""Images as rows: how they are brought to the size of an input."""

import io

import numpy as np
import pytest
from pydantic import ValidationError

from mcdropout.catalogue.images import image_of
from mcdropout.catalogue.inputs import Input

image = pytest.importorskip("PIL.Image")
PIXELS = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)


def row_of(**how):
    body = io.BytesIO()
    image.fromarray(PIXELS).save(body, "PNG")
    spec = Input(shape=[3, 16, 16], image={"mode": "rgb", "resize": "crop", **how})
    return image_of("the image", body.getvalue(), spec)


def test_the_shorter_side_is_resized_and_the_middle_taken_as_vision_libraries_do():
    scaled = image.fromarray(PIXELS).resize((33, 20), image.Resampling.BICUBIC)
    wanted = np.asarray(scaled.crop((8, 2, 24, 18))).transpose(2, 0, 1)
    np.testing.assert_array_equal(row_of(shorter=20, filter="bicubic"), wanted)
    assert (row_of(shorter=20) != wanted).any()
    assert (row_of(filter="bicubic") != wanted).any()


@pytest.mark.parametrize("how", [{"shorter": 15}, {"shorter": 20, "resize": "stretch"}])
def test_a_shorter_side_that_leaves_no_middle_is_refused(how):
    with pytest.raises(ValidationError, match="with resize: crop, as much as height and width, or more, is accepted"):
        row_of(**how)
