"""NumPy's `.npy`: a header that says dtype and shape, and the values. Nothing is ever unpickled."""

import io
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as numpy_format

from mcdropout.catalogue.checks import RowsError
from mcdropout.engine.arrays import Array

MOST_HEADER_BYTES = 4096
"""How far a header may reach; NumPy writes some 120 bytes."""

_MAGIC_BYTES, _SHOWN = 12, 200
_READERS = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
# What a dict of a header raises that is none: it is parsed as Python's literals are.
_MALFORMED = (ValueError, TypeError, SyntaxError, KeyError, OverflowError, MemoryError, RecursionError, EOFError)
_PART_BYTES = 2**18


class ArrayHeader(NamedTuple):
    """What the header of a `.npy` says: the array, whether its first dimension varies fastest, and where it begins."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    end: int


def read_header(start: bytes, label: str) -> ArrayHeader:
    """The header that a `.npy` begins with.

    Args:
        start: the first bytes, `MOST_HEADER_BYTES` at most.
        label: how messages call it.

    Raises:
        RowsError: these are no such bytes.
    """
    return _read_again(start[: _end_of(start)], label)


def _end_of(start: bytes) -> int:
    """Where a header ends by its own account; anywhere where these bytes are none."""
    size = 2 if start[6:7] == b"\1" else 4
    return len(numpy_format.MAGIC_PREFIX) + 2 + size + int.from_bytes(start[8 : 8 + size], "little")


def _read(start: bytes, label: str) -> ArrayHeader:
    file = io.BytesIO(start)
    try:
        version = numpy_format.read_magic(file)
        if version not in _READERS:
            raise RowsError(f"{label} is a .npy of the version {version}; (1, 0) and (2, 0) are accepted")
        shape, fortran, dtype = _READERS[version](file, max_header_size=MOST_HEADER_BYTES - _MAGIC_BYTES)
    except RowsError:
        raise
    except (*_MALFORMED, tokenize.TokenError) as error:
        raise RowsError(
            f"{label} has no header of a .npy ({type(error).__name__}: {str(error)[:_SHOWN]}); what numpy.save writes "
            "is accepted"
        ) from error
    return ArrayHeader(dtype, tuple(map(int, shape)), fortran, file.tell())


_read_again = lru_cache(maxsize=256)(_read)  # most clients send arrays that are alike, and Python's parser takes long


def arranged(values: Array, header: ArrayHeader) -> Array:
    """Values as they come, in the shape and the order that their header says."""
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def parts_of(array: Array) -> Iterator[bytes]:
    """An array as a `.npy`, some rows at a time."""
    head = io.BytesIO()
    numpy_format.write_array_header_1_0(head, numpy_format.header_data_from_array_1_0(array) | {"fortran_order": False})
    yield head.getvalue()
    step = max(1, _PART_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), step):
        yield array[start : start + step].tobytes()
