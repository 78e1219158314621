"""What a user has, as what is sent: arrays, lists, tables and images."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from mcdropout.client import InputDescription, UnusableInputsError
from mcdropout.client.arrow import MEDIA_TYPE
from mcdropout.client.inputs import body_of
from mcdropout.client.tables import read_csv


def takes(shape: list[int | str], dtype: str = "float32", name: str = "x", **more: Any) -> InputDescription:
    fields = {"minimum": None, "maximum": None, "missing": "refused"} | more
    return InputDescription(name=name, shape=tuple(shape), dtype=dtype, **fields)


GREY = takes([1, 2, 5], minimum=0.0, maximum=255.0)
RGB = takes([3, 2, 5], minimum=0.0, maximum=1.0)


def sent(inputs: Any, *described: InputDescription) -> Any:
    """What a server finds in a body's `inputs`."""
    return json.loads(body_of(inputs, described).content)["inputs"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ">f8", ">i4", "int64", "uint8"])
def test_an_array_is_sent_number_for_number(dtype: str) -> None:
    array = np.array([[0.1, 2.0], [3.7, 4.0]]).astype(dtype)
    assert np.array_equal(sent(array), array.astype(np.float64))
    assert np.array_equal(sent(array.T), array.T.astype(np.float64))
    assert sent([array[0], array[1][:1]]) == [array[0].tolist(), array[1][:1].tolist()]


def test_whole_numbers_and_booleans_stay_what_they_are() -> None:
    assert body_of(np.array([[1, 2]])).content == b'{"inputs":[[1,2]]}'
    assert (
        body_of({"mask": np.array([True, False]), "n": np.int32(3)}).content
        == b'{"inputs":{"mask":[true,false],"n":3}}'
    )
    assert body_of([[1, 2.0, True]]).content == b'{"inputs":[[1,2.0,true]]}'


def test_nan_and_none_are_null_and_infinity_is_refused_wherever_it_stands() -> None:
    assert sent(np.array([1.0, np.nan])) == [1.0, None]
    assert sent([1.0, None, math.nan]) == [1.0, None, None]
    for inputs in (np.array([np.inf]), [[1.0, -math.inf]], {"x": [math.inf]}, [np.array([1.0]), np.array([-np.inf])]):
        with pytest.raises(UnusableInputsError, match="infinity"):
            body_of(inputs)


@pytest.mark.parametrize("inputs", [object(), [{1, 2}], np.array(["a"]), np.array([1j]), {"x": object()}, [2**70]])
def test_what_is_no_number_is_refused_with_what_is_accepted(inputs: Any) -> None:
    with pytest.raises(UnusableInputsError, match="accepted"):
        body_of(inputs)


def test_a_frame_is_its_rows_in_the_order_of_its_columns() -> None:
    frame = pd.DataFrame({"b": [1, 2], "a": [0.5, None]}, index=[7, 9])
    assert sent(frame, takes([2])) == [[1, 0.5], [2, None]]
    assert sent(frame[["b"]], takes([])) == [1, 2]
    gaps = pd.DataFrame({"n": pd.Series([1, pd.NA], dtype="Int64"), "m": [3.0, np.nan]})
    assert body_of(gaps, [takes([2], "int64")]).content == b'{"inputs":[[1,3],[null,null]]}'


def test_a_frame_for_inputs_of_one_value_each_is_their_columns_by_name() -> None:
    frame = pd.DataFrame({"height": [1.7, 1.8], "age": [30, 40], "smokes": [True, False]})
    inputs = takes([], "int64", "age"), takes([], name="height"), takes([], "bool", "smokes")
    assert sent(frame, *inputs) == {"age": [30, 40], "height": [1.7, 1.8], "smokes": [True, False]}
    with pytest.raises(
        UnusableInputsError, match=r"columns \['height', 'age'\]; one for each input, \['age', 'height'"
    ):
        body_of(frame[["height", "age"]], inputs)


def test_a_frame_that_no_row_of_the_model_fits_is_refused() -> None:
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    for inputs, said in (
        ([takes([3])], r"has 2 values, the columns \['a', 'b'\]; 3, the size of the input 'x'"),
        ([takes([1, 2])], "arrays of that shape"),
        ([takes([2], name="a"), takes([], name="b")], "where all are of one value a row"),
    ):
        with pytest.raises(UnusableInputsError, match=said):
            body_of(frame, inputs)
    with pytest.raises(UnusableInputsError, match="no rows"):
        body_of(frame[:0], [takes([2])])


PATIENT = takes([3], columns=("age", "ward", "weight"), categories={"ward": {"A": 0, "B": 1}})


def test_a_frame_whose_columns_the_model_names_is_sent_by_these_in_any_order() -> None:
    frame = pd.DataFrame({"weight": [70.5, None], "age": [31, 40], "ward": ["B", "A"]})
    rows = [{"age": 31, "ward": "B", "weight": 70.5}, {"age": 40, "ward": "A", "weight": None}]
    assert sent(frame, PATIENT) == rows
    assert sent(frame.astype({"ward": "category"}), PATIENT) == rows
    assert sent(pd.DataFrame([[31, 1, 70.5]]), PATIENT) == [[31, 1, 70.5]]  # of an array, or of other names
    smokes = takes([], "bool", "smokes")
    assert sent(frame.assign(smokes=[True, False]), smokes, PATIENT) == {"smokes": [True, False], "x": rows}
    whole = takes([2], "int64", columns=("n", "m"))
    assert sent(pd.DataFrame({"m": [1.0], "n": [2]}), whole) == [{"n": 2, "m": 1}]
    for other, said in (
        (
            frame.rename(columns={"age": "Age"}),
            r"lacks \['age'\] and holds the unknown \['Age'\]; the columns \['age', 'w",
        ),
        (frame.assign(sex=1), r"holds the unknown \['sex'\]"),
        (pd.concat([frame, frame[["age"]]], axis=1), r"holds twice \['age'\]"),
    ):
        with pytest.raises(UnusableInputsError, match=said):
            body_of(other, [PATIENT], (MEDIA_TYPE,))


def test_such_a_frame_is_an_arrow_stream_where_the_server_takes_it_and_pyarrow_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = pd.DataFrame({"weight": [70.5, None], "age": [31, 40], "ward": pd.Categorical(["B", "A"])}, index=[7, 9])
    body = body_of(frame, [PATIENT], (MEDIA_TYPE,))
    assert body.content_type == MEDIA_TYPE
    assert pa.ipc.open_stream(body.content).read_all().to_pylist() == sent(frame, PATIENT)
    whole = takes([2], "int64", columns=("n", "m"))
    mixed = frame.assign(ward=pd.Series(["B", 5], dtype=object, index=[7, 9]))
    for other, described, formats in (
        (frame, PATIENT, ("application/json",)),
        (pd.DataFrame({"m": [1.0], "n": [2]}), whole, (MEDIA_TYPE,)),
        (mixed, PATIENT, (MEDIA_TYPE,)),
        (pd.DataFrame([[31, 1, 70.5]]), PATIENT, (MEDIA_TYPE,)),
    ):
        assert body_of(other, [described], formats).content_type == "application/json"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert body_of(frame, [PATIENT], (MEDIA_TYPE,)).content_type == "application/json"


def test_lines_of_csv_are_rows_with_a_line_of_names_or_without() -> None:
    for text in ("1,2.5\n3,\n", "a,b\n1,2.5\n\n3,nan\n"):
        assert sent(read_csv(text), takes([2])) == [[1, 2.5], [3, None]]
    assert sent(read_csv("1,2,3\n4\n"), takes(["tokens"], "int64")) == [[1, 2, 3], [4]]
    assert sent(read_csv("on,n\ntrue,1\nfalse,2\n"), takes([], "int64", "n"), takes([], "bool", "on")) == {
        "n": [1, 2],
        "on": [True, False],
    }
    for text, said in (("", "empty"), ("a,b\n", "names alone"), ("1,2\n3,x\n", "line 2 of the table holds 'x'")):
        with pytest.raises(UnusableInputsError, match=said):
            sent(read_csv(text), takes([2]))


def test_cells_of_csv_are_texts_where_a_column_has_categories() -> None:
    wards = {"ward": {"A": 0.0, "1": 1.0, "none": 2.0}}
    patients = takes([2], columns=("age", "ward"), categories=wards)
    assert sent(read_csv("ward,age\nA,31\n1,32\nnone,33\n,34\n"), patients) == [
        {"age": 31, "ward": "A"},
        {"age": 32, "ward": "1"},
        {"age": 33, "ward": "none"},
        {"age": 34, "ward": None},
    ]
    for text, said in (
        ("age,ward\n31,A\n32,B\n", "line 3 of the table holds 'B'; one of .'A', '1', 'none'., and"),
        ("age,ward\nold,A\n", "line 2 of the table holds 'old'; numbers"),
        ("31,A\n32,1\n", "the table has the columns .'31', 'A'.; one of .'age', 'ward'. is accepted"),
        ("31,0\n", "the table has no line of names; one of"),
    ):
        with pytest.raises(UnusableInputsError, match=said):
            sent(read_csv(text), patients)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.arange(30, dtype=np.uint8).reshape(2, 5, 3) * 8)


def test_an_image_takes_the_inputs_shape_and_range(picture: Image.Image) -> None:
    colours = np.asarray(picture)
    grey = np.asarray(picture.convert("L"))
    assert np.array_equal(sent(picture, GREY), grey[None])
    assert np.array_equal(sent(picture, RGB), np.moveaxis(colours, 2, 0) * (1.0 / 255.0))
    assert np.array_equal(sent(picture, takes([2, 5, 3], "uint8")), colours)
    assert np.array_equal(sent(picture, takes([2, 5, 1], "uint8")), grey[..., None])
    assert np.array_equal(sent(picture, takes([2, 5], "uint8")), grey)
    assert np.array_equal(sent(picture, takes([3, "height", "width"], "uint8")), np.moveaxis(colours, 2, 0))
    assert np.array_equal(sent([picture, picture], GREY), [grey[None], grey[None]])


def test_texts_are_sent_as_they_are_to_a_model_that_takes_them() -> None:
    for given, wanted in (("good film", ["good film"]), (["good", "seven.png"], ["good", "seven.png"])):
        assert json.loads(body_of(given, [GREY], texts=True).content) == {"inputs": wanted}
    with pytest.raises(UnusableInputsError, match="'good film' cannot be read as an image"):
        body_of("good film", [GREY])


def test_a_file_is_opened_and_turned_upright(picture: Image.Image, tmp_path: Path) -> None:
    lying = Image.Exif()
    lying[0x0112] = 6  # the camera was turned by 90 degrees
    picture.rotate(90, expand=True).save(tmp_path / "lying.png", exif=lying)
    picture.save(tmp_path / "upright.png")
    upright = np.asarray(picture.convert("L"))[None]
    assert np.array_equal(sent(tmp_path / "upright.png", GREY), upright)
    assert np.array_equal(sent(str(tmp_path / "lying.png"), GREY), upright)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (
            [takes([1, 4, 5], minimum=0.0, maximum=255.0)],
            r"2 pixels high and 5 wide; 4 high.*resize\(\(5, 4\)",
        ),
        ([takes([1, 2, 5])], "does not say how bright white is"),
        ([takes([1, 2, 5], minimum=0.0, maximum=128.0)], "does not say how bright white is"),
        ([takes([1, 2, 5], minimum=-1.0, maximum=1.0)], "does not say how bright white is"),
        ([takes([1, 2, 5], "int64", minimum=0.0, maximum=1.0)], "does not say how bright white is"),
        ([takes([3, 2, 3], minimum=0.0, maximum=255.0)], "does not say which dimension holds the channels"),
        ([takes([6], minimum=0.0, maximum=255.0)], r"images are accepted for \[height, width\]"),
        ([takes([4, 2, 2], minimum=0.0, maximum=255.0)], r"images are accepted for \[height, width\]"),
        ([GREY, GREY], "takes 2 inputs"),
    ],
)
def test_an_image_is_refused_where_it_is_in_doubt_how_it_is_to_be_sent(
    described: list[InputDescription], said: str, picture: Image.Image
) -> None:
    with pytest.raises(UnusableInputsError, match=said):
        body_of(picture, described)


def test_transparency_and_deep_pixels_are_refused_and_opaque_ones_are_not(picture: Image.Image) -> None:
    opaque = picture.convert("RGBA")
    assert sent(opaque, GREY) == sent(picture, GREY)
    opaque.putalpha(128)
    for image, said in ((opaque, "transparent"), (Image.new("I;16", (5, 2)), "8 bits")):
        with pytest.raises(UnusableInputsError, match=said):
            body_of(image, [GREY])


def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("words")
    for name in ("no.png", "missing.png"):
        with pytest.raises(UnusableInputsError, match=name):
            body_of(tmp_path / name, [GREY])
