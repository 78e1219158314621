"""Streams: the random words that masks are made of, of NumPy's Philox; natively where the C extension was built."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.native import library
from mcdropout.engine.native.masks import philox_words

BLOCK_WORDS = 4
"""How many words a block of the generator has."""
_MOST = 2**64 - 1
# Below this many words of one row, leaving the interpreter's lock costs more than holding it.
_FEW_WORDS = 4096


class _Stream(threading.local):
    """A thread's generator, set to another place of another stream for every read: making one costs more."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._counter, self._key = np.zeros(BLOCK_WORDS, np.uint64), np.zeros(2, np.uint64)
        self._state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": self._key},
            "buffer": np.zeros(BLOCK_WORDS, np.uint64),
            "buffer_pos": BLOCK_WORDS,
            "has_uint32": 0,
            "uinteger": 0,
        }

    def read(self, key: npt.NDArray[np.uint64], first: int, count: int) -> npt.NDArray[np.uint64]:
        """Words `first .. first + count` of the stream of `key`; `first` is a multiple of a block."""
        self._counter[0] = first // BLOCK_WORDS
        self._key[:] = key
        self._philox.state = self._state
        if count < _FEW_WORDS:
            return self._philox.random_raw(count)
        # The full range of 64 bits is the generator's words as they come, drawn without the interpreter's lock.
        return self._generator.integers(0, _MOST, size=count, dtype=np.uint64, endpoint=True)


_stream = _Stream()


def read(keys: npt.NDArray[np.uint64], first: int, count: int) -> npt.NDArray[np.uint64]:
    """Words `first .. first + count` of the streams of `keys`, `[keys, count]`; both are multiples of a block."""
    if library.available():
        return philox_words(keys, first // BLOCK_WORDS, count // BLOCK_WORDS)
    return np.stack([_stream.read(key, first, count) for key in keys])
