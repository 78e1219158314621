"""JSON read to arrays: the rows, and the errors, are those of JSON read to lists."""

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest

from mcdropout.catalogue import json_arrays, rows
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.json_arrays import arrays_of
from mcdropout.catalogue.rows import RowsError, read_rows

PLAIN = [Input(name="x", shape=[2])]
GRID = [Input(name="x", shape=[2, 2], minimum=0, maximum=9)]
SINGLE = [Input(name="x", shape=[])]
WHOLE = [Input(name="x", shape=[2], dtype="int64", minimum=-5, maximum=100)]
BOTH = [*PLAIN, Input(name="y", shape=[2])]
MISSING = [Input(name="x", shape=[2], missing="allowed")]
WORDS = [Input(name="x", shape=[2], dtype="bool")]
INPUTS = {
    "plain": PLAIN,
    "grid": GRID,
    "single": SINGLE,
    "whole": WHOLE,
    "both": BOTH,
    "missing": MISSING,
    "bool": WORDS,
}

USUAL = ["0", "1", "-1", "2.5", "1e3", "1E-2", "-0", "7"]
UNUSUAL = [
    *("9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1e400", "-1e400"),
    *("1e-400", "01", "1.", "3.0", "99999999999999999999999999", "NaN", "Infinity", "true", "false", "null"),
    *('"a"', '"["', "{}", "[]", "[1]", '{"b64":"aa"}', '{"x":1}'),
]
MOST = 5


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_arrays, "_WORTH_BYTES", 0)


class Texts:
    """Bodies at random: most are rows, many nearly."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def sometimes(self, share: float) -> bool:
        return self.random.random() < share

    def value(self, depth: int) -> str:
        if depth <= 0 or self.sometimes(0.04):
            return self.random.choice(UNUSUAL if self.sometimes(0.05) else USUAL)
        count = 2 if self.sometimes(0.9) else self.random.choice((0, 1, 3))
        return "[" + ",".join(self.value(depth - 1) for _ in range(count)) + "]"

    def of(self, inputs: Sequence[Input]) -> bytes:
        listed = self.sometimes(0.6)

        def part(spec: Input) -> str:
            return self.value(len(spec.shape) + listed if self.sometimes(0.95) else 4)

        if len(inputs) > 1 or self.sometimes(0.2):
            named = [(spec.name, part(spec)) for spec in inputs]
            if self.sometimes(0.1):
                named.append((self.random.choice(["x", "z", "[{"]), part(inputs[0])))
            given = "{" + ",".join(f'"{name}":{value}' for name, value in named) + "}"
        else:
            given = part(inputs[0])
        text = '{"inputs":' + given + "}"
        if self.sometimes(0.05):
            text = self.random.choice(["\ufeff", " ", "\n", "x", "["]) + text
        if self.sometimes(0.05):
            text += self.random.choice([" ", "]", "}", "x", ",", "\0"])
        if self.sometimes(0.05):
            text = text.replace(
                '{"inputs"', self.random.choice(['{"input"', '{"in\\u0070uts"', '{"inputs":[1,2],"inputs"'])
            )
        if self.sometimes(0.3):
            text = text.replace(",", " ,\n")
        encoded = text.encode()
        if self.sometimes(0.03):
            at = self.random.randrange(len(encoded))
            encoded = encoded[:at] + bytes([self.random.randrange(256)]) + encoded[at + 1 :]
        return encoded


def outcome(text: bytes, inputs: Sequence[Input]) -> object:
    try:
        found = read_rows(text, inputs, MOST)
    except RowsError as error:
        return str(error)
    return [(x.dtype, x.shape, x.tobytes()) for x in map(np.asarray, found)]


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_whatever_comes_is_answered_as_if_it_were_read_to_lists(
    inputs: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Texts(7)
    given = [texts.of(inputs) for _ in range(4000)]
    found = [outcome(text, inputs) for text in given]
    read = sum(arrays_of(text, inputs) is not None for text in given)
    monkeypatch.setattr(rows, "arrays_of", lambda _text, _inputs: None)
    for text, one in zip(given, found, strict=True):
        assert one == outcome(text, inputs), text
    assert read > 100 if inputs is not WORDS else read == 0


def test_a_list_in_a_list_of_numbers_is_no_number() -> None:
    text = b'{"inputs": [[[1, [2]], [3, 4]]]}'
    assert arrays_of(text, GRID) is None
    with pytest.raises(RowsError, match="ragged"):
        read_rows(text, GRID)


def test_what_is_small_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    inputs = [Input(name="x", shape=[30])]
    assert arrays_of(json.dumps({"inputs": [0.5] * 30}).encode(), inputs) is None
    large = arrays_of(json.dumps({"inputs": [[0.5] * 30] * 50}).encode(), inputs)
    assert large is not None
    ((declared, values),) = large
    assert (declared.listed, values.shape, values.dtype) == (True, (50, 30), np.dtype("float64"))


def test_rows_are_read_all_the_same_where_simdjson_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"inputs": [[n / 7, -n] for n in range(500)]}).encode()
    assert arrays_of(text, PLAIN) is not None
    expected = read_rows(text, PLAIN)
    monkeypatch.setattr(json_arrays, "simdjson", None)
    assert arrays_of(text, PLAIN) is None
    np.testing.assert_array_equal(read_rows(text, PLAIN), expected)
