"""Rows read some at a time are the rows read at once, and so are the errors."""

import json
import random

import numpy as np
import pytest

from mcdropout.catalogue import rows
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.rows import RowsError, read_many_rows, read_rows

PIXELS = [Input(name="input", shape=[2, 3], minimum=0, maximum=9)]
TOKENS = [Input(name="input", shape=[4], dtype="int64", minimum=0, maximum=9)]
NUMBERS = [Input(name="input", shape=[])]
BOTH = [*PIXELS, Input(name="age", shape=[])]


def some(inputs, count):
    generator = np.random.default_rng(0)
    values = {x.name: generator.integers(0, 10, (count, *x.shape)).tolist() for x in inputs}
    return {"inputs": values if len(inputs) > 1 else values["input"]}


def deep(times):
    value = 1
    for _ in range(times):
        value = [value]
    return value


def outcome(read, *arguments):
    try:
        return read(*arguments)
    except RowsError as error:
        return str(error)


def same(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(rows, "_PART_BYTES", 30)


@pytest.mark.parametrize("inputs", [PIXELS, TOKENS, NUMBERS, BOTH], ids=["pixels", "tokens", "numbers", "both"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_rows_read_some_at_a_time_are_the_rows(inputs, indent, count):
    text = json.dumps(some(inputs, count), indent=indent).encode()
    pauses = []
    found = read_many_rows(text, inputs, 50, lambda: pauses.append(1))
    assert same(found, read_rows(text, inputs, 50))
    assert len(found[0]) == count
    if count == 50 and inputs is not BOTH:
        assert len(pauses) > 3


@pytest.mark.parametrize("inputs", [PIXELS, TOKENS, NUMBERS, BOTH], ids=["pixels", "tokens", "numbers", "both"])
def test_what_is_wrong_is_told_as_of_the_whole(inputs):
    whole = json.dumps(some(inputs, 20))
    generator = random.Random(0)
    wrong = 0
    for _ in range(3000):
        text = list(whole)
        for _ in range(generator.choice([1, 1, 2])):
            place = generator.randrange(len(text))
            text[place : place + generator.choice([0, 1, 1, 4])] = generator.choice(
                ["", "]", "[", ",", "],[", "]],[[", "9", " ", "true", "NaN", "1e999", '"', "{", "}", "-1", '],"x":[']
            )
        damaged = "".join(text).encode()
        expected = outcome(read_rows, damaged, inputs, 20)
        wrong += isinstance(expected, str)
        assert same(outcome(read_many_rows, damaged, inputs, 20, lambda: None), expected), damaged
    assert 500 < wrong < 3000  # both kinds were seen


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (PIXELS, '\x0c{"inputs": [ROWS]}'),
        (PIXELS, '{"inputs": [ROWS]}\x0b'),
        (PIXELS, '{"inputs": [ROWS], "inputs": [ROWS]}'),
        (PIXELS, '{"inputs": [ROWS], "\\u0069nputs": [ROWS]}'),
        (PIXELS, '{"inputs": [ROWS, [1, 2, 3], [4, 5, 6]]}'),
        (TOKENS, '{"inputs": [ROWS, 1, 2, 3, 4]}'),
        (PIXELS, '{"inputs": [ROWS,]}'),
    ],
)
def test_what_only_looks_like_rows_is_read_as_the_whole(inputs, text):
    listed = json.dumps(some(inputs, 20)["inputs"])[1:-1]
    for wrong in (text.replace("ROWS", listed), text.replace("ROWS", listed).replace(" ", "")):
        expected = outcome(read_rows, wrong.encode(), inputs)
        assert same(outcome(read_many_rows, wrong.encode(), inputs, None, lambda: None), expected)


def test_too_many_rows_are_told_as_of_the_whole():
    text = json.dumps(some(PIXELS, 20)).encode()
    expected = "inputs holds 20 rows; 1 to 19 are accepted"
    assert outcome(read_many_rows, text, PIXELS, 19, lambda: None) == expected


MISSING = Input(name="input", shape=[2], minimum=0, maximum=9, missing="allowed")
NAN = float("nan")


class TestNullWhereValuesMayBeMissing:
    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ([1.0, None], [[1.0, NAN]]),
            ([[None, 2], [3, 4]], [[NAN, 2.0], [3.0, 4.0]]),
            ([[None, None]], [[NAN, NAN]]),
            ([None, None], [[NAN, NAN]]),
            ([[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        ],
    )
    def test_becomes_nan(self, given, wanted):
        (found,) = read_rows(json.dumps({"inputs": given}).encode(), [MISSING])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.array(wanted, np.float32))

    def test_becomes_nan_after_preprocessing_and_for_single_values(self):
        spec = Input(name="age", shape=[], missing="allowed", preprocessing={"scale": 2, "mean": 1})
        np.testing.assert_array_equal(read_rows(b'{"inputs": null}', [spec])[0], np.array([NAN], np.float32))
        np.testing.assert_array_equal(read_rows(b'{"inputs": [1, null]}', [spec])[0], np.array([1, NAN], np.float32))

    def test_is_read_some_at_a_time_as_at_once(self):
        text = json.dumps({"inputs": [[1, None], [None, 2], [3, 4]] * 40}).encode()
        one, other = read_many_rows(text, [MISSING], None, lambda: None), read_rows(text, [MISSING])
        np.testing.assert_array_equal(one[0], other[0])

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ([1.0, "x"], '"x"; numbers are accepted, and null for what is missing'),
            ([None, True], "true; numbers are accepted, and null for what is missing"),
            ([None, {}], "an object; numbers are accepted, and null for what is missing"),
            ([[None, 10]], "values from 10 to 10; 0 to 9 is accepted"),
            ([None, None, None], "has the shape [3]"),
            ([[None], [1, 2]], "is ragged"),
            (deep(900), "inputs holds lists 900 deep; "),
            (None, "has the shape []"),
        ],
    )
    def test_leaves_other_faults_what_they_are(self, given, told):
        with pytest.raises(RowsError) as raised:
            read_rows(json.dumps({"inputs": given}).encode(), [MISSING])
        assert told in str(raised.value)

    @pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
    def test_is_refused_where_they_may_not(self, dtype):
        with pytest.raises(RowsError, match=r"inputs holds null; .* accepted"):
            read_rows(b'{"inputs": [null, null]}', [Input(name="input", shape=[2], dtype=dtype)])


IMAGE = [Input(name="image", shape=[1, 28, 28], minimum=0, maximum=1)]


class TestBulk:
    @pytest.mark.parametrize(
        ("text", "called"),
        [
            (b'{"inputs":[' + b"[[[{}]]]," * 40_000 + b"1]}", "lists and objects"),
            (b'{"inputs":' + b"[" * 40_000, "lists and objects"),
            (b'{"inputs":[' + b"1," * 400_000 + b"1]}", "values"),
            (b'{"inputs":{"image":[' + b"[]," * 40_000 + b"[]]}}", "lists and objects"),
            (b"{" + b'"a":{},' * 40_000 + b'"a":{}}', "lists and objects"),
        ],
    )
    def test_of_far_more_than_the_rows_is_refused_before_it_is_parsed(self, monkeypatch, text, called):
        monkeypatch.setattr(rows.orjson, "loads", None)
        message = outcome(read_many_rows, text, IMAGE, 100, lambda: None)
        assert f" {called}, more than 2 times those of 100 rows; 1 to 100 rows are accepted" in message

    def test_of_rows_is_accepted_however_little_they_hold(self):
        full = {"inputs": {"image": np.ones((100, 1, 28, 28)).tolist()}}
        assert len(read_many_rows(json.dumps(full).encode(), IMAGE, 100, lambda: None)[0]) == 100
        alone = json.dumps({"inputs": list(range(50))}).encode()
        assert len(read_rows(alone, NUMBERS, 50)[0]) == 50

    def test_of_some_rows_too_many_is_told_in_rows(self):
        text = json.dumps({"inputs": np.ones((150, 1, 28, 28)).tolist()}).encode()
        expected = "inputs holds 150 rows; 1 to 100 are accepted"
        assert outcome(read_many_rows, text, IMAGE, 100, lambda: None) == expected


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_under_the_name_of_the_one_input_are_read_some_at_a_time(indent):
    content = {"inputs": {"input": some(PIXELS, 50)["inputs"]}}
    text, pauses = json.dumps(content, indent=indent).encode(), []
    found = read_many_rows(text, PIXELS, 50, lambda: pauses.append(1))
    assert same(found, read_rows(text, PIXELS, 50))
    assert len(pauses) > 3
    wrong = text.replace(b'"input"', b'"other"')
    assert "and holds the unknown ['other']; " in outcome(read_many_rows, wrong, PIXELS, 50, lambda: None)


@pytest.mark.parametrize("depth", [64, 253, 254, 300, 900, 1023, 1100, 5000])
@pytest.mark.parametrize("inner", ["true", "1", "{}", '"x"', "null"])
@pytest.mark.parametrize("around", ['{{"inputs": {}}}', '{{"inputs": {{"input": {}}}}}', '{{"inputs": [[1, 2], {}]}}'])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_what_is_nested_however_deep_is_refused_in_words(depth, inner, around, brackets):
    text = around.format(brackets[0] * depth + inner + brackets[1] * depth).encode()
    message = outcome(read_many_rows, text, TOKENS, None, lambda: None)
    assert isinstance(message, str)
    assert len(message) < 400


def test_names_that_a_client_sent_are_told_in_part():
    names = {f"{number:03}{'x' * 1000}": 1 for number in range(500)}
    for content in ({"inputs": names}, names):
        message = outcome(read_rows, json.dumps(content).encode(), TOKENS)
        assert "and 490 more" in message
        assert len(message) < 2000
