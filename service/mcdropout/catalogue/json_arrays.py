"""JSON of nested lists of numbers, and nothing else, to arrays without a Python object for each.

That is most of what is large, and takes half the time and two thirds of the memory that lists of floats do. What is
anything else, or wrong, is `rows.py`'s to read, which says what would be accepted.
"""

import codecs
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mcdropout.catalogue.arrays import Declared
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.arrays import Array

try:
    import simdjson
except ModuleNotFoundError:  # as on Pythons that it has no wheel for
    simdjson: Any = None  # type: ignore[no-redef]

_WORTH_BYTES = 2048  # less is read as fast either way
# By the kind of an input's dtype: as what simdjson gives the numbers, which refuses those of another kind, and theirs.
_AS: dict[str, tuple[Any, type]] = {"f": ("d", np.float64), "i": ("i", np.int64)}
# What simdjson raises where a text is no JSON, is too deep, or holds something else or too large a number.
_OTHERWISE = (ValueError, TypeError, KeyError, IndexError, RuntimeError, UnicodeError)
_OF_NUMBERS = b"0123456789+-.eE \t\r\n"  # and of the space between them
_SHORT = 2**14  # of outlines, in numbers


def arrays_of(text: bytes, inputs: Sequence[Input]) -> list[tuple[Declared, Array]] | None:
    """What a JSON text, `{"inputs": ...}`, gives for each input, as `rows_of_arrays` takes it.

    Args:
        text: the JSON.
        inputs: what is taken.

    Returns:
        For each input the numbers, in float64 or int64, `[rows, *shape]`, or `shape` of one row. None where the text is
        small, or holds anything but lists of numbers in these shapes; or where simdjson is not installed.
    """
    if simdjson is None or len(text) < _WORTH_BYTES or text.startswith(codecs.BOM_UTF8):
        return None
    if any(spec.varies or spec.kind not in _AS for spec in inputs):
        return None
    if text.count(b'"') > 2 * (1 + len(inputs)):  # columns, images: it is not to be parsed twice
        return None
    try:
        content: Any = simdjson.Parser().parse(text)
        if not isinstance(content, simdjson.Object) or list(content) != ["inputs"]:
            return None
        given: Any = content["inputs"]
        by_name = isinstance(given, simdjson.Object)
        order = list(given) if by_name else [inputs[0].name]
        if sorted(order) != sorted(spec.name for spec in inputs):
            return None
        found: dict[str, tuple[Declared, Array]] = {}
        outlines: list[bytes] = []
        for spec in sorted(inputs, key=lambda spec: order.index(spec.name)) if len(inputs) > 1 else inputs:
            value = given[spec.name] if by_name else given
            depth, shape = _depth(value), tuple(map(int, spec.shape))
            listed = depth == len(shape) + 1
            if not depth or not (listed or depth == len(shape)):
                return None
            kind, dtype = _AS[spec.kind]
            numbers: Array = np.frombuffer(value.as_buffer(of_type=kind), dtype)
            sizes = (len(numbers) // math.prod(shape), *shape) if listed else shape
            array = numbers.reshape(sizes)
            label = f"inputs.{spec.name}" if by_name else "inputs"
            found[spec.name] = Declared(label, spec, array.dtype, sizes, listed), array
            named = b'"%b":' % spec.name.encode().translate(None, _OF_NUMBERS) if by_name else b""
            outlines.append(named + _outline_of(sizes))
    except _OTHERWISE:
        return None
    # What simdjson gives as numbers one behind another may have stood in other lists.
    whole = b'{"inputs":%b}' % (b"{%b}" % b",".join(outlines) if by_name else outlines[0])
    if text.translate(None, _OF_NUMBERS) != whole:
        return None
    return [found[spec.name] for spec in inputs]


def _depth(value: Any) -> int:
    """How deep lists are nested, by the first entry of each; IndexError of an empty one."""
    depth = 0
    while isinstance(value, simdjson.Array):
        value = value[0]
        depth += 1
    return depth


def _outline(sizes: tuple[int, ...]) -> bytes:
    """The text of nested lists of these sizes, without the numbers and spaces in it."""
    text = b""
    for size in reversed(sizes):
        text = b"[%b]" % b",".join([text] * size)
    return text


_outline_again = lru_cache(maxsize=64)(_outline)


def _outline_of(sizes: tuple[int, ...]) -> bytes:
    """The same, kept where it is short: most clients send as many rows each time."""
    return (_outline_again if math.prod(sizes) <= _SHORT else _outline)(sizes)
