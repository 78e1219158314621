"""Masks drawn by the C extension: the Philox words of NumPy, compared and written in one go."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.native.library import Floats, address_of, library, locked_library

_BLOCK_WORDS = 4  # of Philox
_BITS = (1, 8, 16, 32, 64)  # that a unit may take
_DRAWN: Final = (None, "uniform", "normal")  # in the order in which the extension counts them
# Masks of fewer bytes are written in less time than it takes to get the interpreter's lock back from another thread.
_FEW_BYTES = 2**18


class _PassFields(ctypes.Structure):
    """`Passes` as the C extension reads them."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("seeds", "rows", "firsts", "ends"))


class _LayoutFields(ctypes.Structure):
    """A `UnitLayout` as the C extension reads it."""

    _fields_ = (
        ("word", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("units", ctypes.c_int64),
        ("planes", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("drawn", ctypes.c_int64),
        ("threshold", ctypes.c_uint64),
        ("kept", ctypes.c_float * 2),
        ("dropped", ctypes.c_float * 2),
    )


@dataclass(frozen=True)
class UnitLayout:
    """Where the units of a site lie in the random words of a pass, and what each becomes.

    Attributes:
        word, words: which words they take.
        units: how many units.
        bits: how many bits a unit takes: 1, 8, 16, 32 or 64.
        threshold: the least number of these that is kept.
        kept, dropped: what a unit becomes in each plane of the mask, one or two.
        drawn: what it becomes otherwise: "uniform" or "normal" numbers, of 32 bits each; None where it is compared.
    """

    word: int
    words: int
    units: int
    bits: int
    threshold: int = 0
    kept: Sequence[float] = (1.0,)
    dropped: Sequence[float] = (0.0,)
    drawn: Literal["uniform", "normal"] | None = None


class Passes:
    """Some passes of each of several rows; those of a row are next to one another. One of them is a pair.

    Attributes:
        keys: `[rows, 2]`, of each row's stream of random words.
        firsts: `[rows]`, each row's first pass.
        ends: `[rows]`, behind which pair the passes of each row end.
    """

    def __init__(self, seeds: npt.ArrayLike, rows: Array, firsts: npt.ArrayLike, counts: npt.ArrayLike) -> None:
        """
        Args:
            seeds: `[rows]`, the first half of each key; or one number for all.
            rows: `[rows]`, the second.
            firsts: `[rows]`, each row's first pass; or one number for all.
            counts: `[rows]`, how many passes each has from there on; or one number for all.

        Raises:
            ValueError: a row has less than no passes.
        """
        count = len(rows)
        # One memory for all, whose address is asked for once: that takes as long as all else here.
        memory = np.empty((4, count), np.uint64)
        memory[0], memory[1], memory[2] = seeds, rows, firsts
        self.keys, self.firsts, self.ends = memory[:2].T, memory[2], memory[3].view(np.int64)
        self.ends[:] = counts
        if count and self.ends.min() < 0:
            raise ValueError(f"rows have {self.ends.tolist()} passes; 0 or more are accepted")
        if count > 1:
            np.cumsum(self.ends, out=self.ends)
        self._pairs = int(self.ends[-1]) if count else 0
        start, size = address_of(memory), 8 * count
        self._fields = _PassFields(start, start + size, start + 2 * size, start + 3 * size)
        self.address = ctypes.addressof(self._fields)

    def __len__(self) -> int:
        """How many pairs."""
        return self._pairs


class MaskTable:
    """Draws the masks of some sites. Thread-safe.

    Attributes:
        stride: how many words a pass takes, a multiple of four.
        address: of the layouts in memory.
    """

    def __init__(self, layouts: Sequence[UnitLayout], stride: int) -> None:
        """
        Args:
            layouts: of each site.
            stride: how many words a pass takes, a multiple of four.

        Raises:
            ValueError: a layout lies outside, or has no room for its units.
        """
        if stride % _BLOCK_WORDS:
            raise ValueError(f"the stride is {stride}; a multiple of {_BLOCK_WORDS} is accepted")
        for layout in layouts:
            inside = 0 <= layout.word <= layout.word + layout.words <= stride
            if not inside or layout.bits not in _BITS or not 0 <= layout.units * layout.bits <= 64 * layout.words:
                raise ValueError(f"{layout} does not fit into {stride} words of 64 bits; {_BITS} bits are accepted")
            if layout.drawn and (layout.bits != 32 or (layout.units + layout.units % 2) * 32 > 64 * layout.words):
                raise ValueError(f"{layout} draws numbers; 32 bits for each, and for an even count, are accepted")
        self._layouts, self.stride = tuple(layouts), stride
        self._addresses = ctypes.c_void_p * len(layouts)  # a class, which is garbage of the slow kind if it is not kept
        self._units = [len(layout.kept) * layout.units for layout in layouts]
        self._bytes = 8 * stride + 4 * sum(self._units)
        self._table = (_LayoutFields * len(layouts))(
            *(
                _LayoutFields(
                    x.word,
                    x.words,
                    x.units,
                    len(x.kept),
                    x.bits,
                    _DRAWN.index(x.drawn),
                    x.threshold,
                    tuple(x.kept),
                    tuple(x.dropped),
                )
                for x in layouts
            )
        )
        self.address = ctypes.addressof(self._table)

    def check_units(self, index: int, units: int) -> None:
        """Raise ValueError unless a site has so many units in one plane, or the index is -1."""
        if index == -1:
            return
        layout = self._layouts[index] if 0 <= index < len(self._layouts) else None
        if layout is None or layout.units != units or len(layout.kept) != 1 or layout.drawn:
            raise ValueError(f"the mask {index} is not one of {units} units")

    def draw(self, passes: Passes, masks: Sequence[Floats], begin: int, end: int, *, locked: bool = False) -> None:
        """Write the masks of the pairs `begin` to `end`.

        Args:
            passes: which pass each pair is.
            masks: for each site, `[pairs, ...]`, of so many numbers as it has units in all its planes; to be written
                to.
            begin, end: of the pairs. Different threads may draw different parts at once.
            locked: whether to keep the interpreter's lock, if it does not take long.

        Raises:
            ValueError: a mask has another size, dtype or memory order.
        """
        for mask, units in zip(masks, self._units, strict=True):
            if mask.dtype != np.float32 or mask.size != len(passes) * units or not mask.flags.c_contiguous:
                raise ValueError(
                    f"a mask is {mask.dtype} {list(mask.shape)}; contiguous float32 of {len(passes)} x {units} numbers "
                    "is accepted"
                )
        if not 0 <= begin <= end <= len(passes):
            raise ValueError(f"the pairs {begin} to {end} of {len(passes)} were asked for")
        few = (end - begin) * self._bytes <= _FEW_BYTES
        functions = locked_library() if locked and few else library()
        addresses = self._addresses(*(address_of(mask) for mask in masks))
        functions.draw_masks(self._table, len(self._layouts), self.stride, passes.address, begin, end, addresses)


def philox_words(keys: npt.NDArray[np.uint64], block: int, count: int) -> npt.NDArray[np.uint64]:
    """The words that NumPy's `Philox` gives for each of some keys: those of `count` blocks of four, from `block` on.

    Args:
        keys: `[streams, 2]`.

    Returns:
        `[streams, 4 * count]`.
    """
    keys = np.ascontiguousarray(keys, np.uint64)
    words = np.empty((len(keys), 4 * count), np.uint64)
    library().philox_words(address_of(keys), len(keys), block, count, address_of(words))
    return words
