"""JSON of nested lists of numbers, and nothing else, to arrays without a Python object for each.

That is most of what is large, and takes half the time and two thirds of the memory that lists of floats do. What is
anything else, or wrong, is `rows.py`'s to read, which says what would be accepted.
"""

import codecs
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import simdjson

from mcdropout.catalogue.arrays import Declared
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.arrays import Array

_WORTH_BYTES = 2048  # less is read as fast either way
# By the kind of an input's dtype: as what simdjson gives the numbers, which refuses those of another kind, and theirs.
_AS: dict[str, tuple[Any, type]] = {"f": ("d", np.float64), "i": ("i", np.int64)}
# What simdjson raises where a text is no JSON, is too deep, or holds something else or too large a number.
_OTHERWISE = (ValueError, TypeError, KeyError, IndexError, RuntimeError, UnicodeError)


def arrays_of(text: bytes, inputs: Sequence[Input]) -> list[tuple[Declared, Array]] | None:
    """What a JSON text, `{"inputs": ...}`, gives for each input, as `rows_of_arrays` takes it.

    Args:
        text: the JSON.
        inputs: what is taken.

    Returns:
        For each input the numbers, in float64 or int64, `[rows, *shape]`, or `shape` of one row. None where the text is
        small, or holds anything but lists of numbers in these shapes.
    """
    if len(text) < _WORTH_BYTES or text.startswith(codecs.BOM_UTF8):
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
        if sorted(given) != sorted(spec.name for spec in inputs) if by_name else len(inputs) > 1:
            return None
        lists = 0
        arrays: list[tuple[Declared, Array]] = []
        for spec in inputs:
            label = f"inputs.{spec.name}" if by_name else "inputs"
            value: Any = given[spec.name] if by_name else given
            sizes = _sizes_of(value, spec.shape)
            if sizes is None:
                return None
            kind, dtype = _AS[spec.kind]
            array: Array = np.frombuffer(value.as_buffer(of_type=kind), dtype).reshape(sizes)
            arrays.append((Declared(label, spec, array.dtype, sizes, len(sizes) > len(spec.shape)), array))
            lists += sum(math.prod(sizes[:depth]) for depth in range(len(sizes)))
    except _OTHERWISE:
        return None
    # Numbers may stand in more lists than these, of which simdjson tells nothing.
    return arrays if (text.count(b"["), text.count(b"{")) == (lists, 1 + by_name) else None


def _sizes_of(value: Any, shape: Sequence[Any]) -> tuple[int, ...] | None:
    """The sizes of nested lists: those of a row, or of a list of rows; None of any others."""
    if not isinstance(value, simdjson.Array):
        return None
    level: list[Any] = [value]
    sizes: list[int] = []
    while True:
        sizes.append(len(level[0]))
        if any(len(one) != sizes[-1] for one in level) or not sizes[-1]:
            return None
        if len(sizes) > len(shape):
            break
        if not isinstance(level[0][0], simdjson.Array):
            break
        level = [entry for one in level for entry in one]
        if not all(isinstance(entry, simdjson.Array) for entry in level):
            return None
    fits = list(sizes) == list(shape) or (len(sizes) == len(shape) + 1 and list(sizes[1:]) == list(shape))
    return tuple(sizes) if fits else None
