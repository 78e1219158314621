"""The C extension `native.c`: chains of masked linear layers without the multiplications by zero, and drawn masks.

It is optional. Installing the package compiles it where there is a C compiler; where there is none, `available` is
false and other runtimes do its work. It is a plain shared library, called through ctypes, which lets other threads of
Python run meanwhile, unless the call is short.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.engine.scratch import Scratch

PANEL = 64
"""How many outputs are summed at once: layers are padded to a multiple of it."""
SCRATCH_BYTES = 8 * 2**20
"""The memory that one thread may take for intermediate values, in bytes (more where a single pair does)."""
_MOST_PAIRS_A_BLOCK = 512
_LINE = 64  # bytes of a cache line
# Masks of fewer bytes are written in less time than it takes to get the interpreter's lock back from another thread.
_FEW_BYTES = 2**18

Floats = npt.NDArray[np.float32]


class _Layer(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("relu", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


class _Place(ctypes.Structure):
    _fields_ = (
        ("word", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("units", ctypes.c_int64),
        ("planes", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("threshold", ctypes.c_int64),
        ("kept", ctypes.c_float * 2),
        ("dropped", ctypes.c_float * 2),
    )


def _load(kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    found = importlib.util.find_spec("service.engine._native")
    if found is None or found.origin is None:
        return None
    try:
        library = kind(found.origin)
        functions = library.masked_chain, library.masked_chain_scratch, library.philox_words, library.draw_masks
    except (OSError, AttributeError):  # built for another machine, or of another version
        return None
    address, number = ctypes.c_void_p, ctypes.c_int64
    chain, scratch, words, masks = functions
    chain.argtypes, chain.restype = [address, number, *[address] * 3, *[number] * 3, *[address] * 2], None
    scratch.argtypes, scratch.restype = [address, number, number], number
    words.argtypes, words.restype = [address, number, ctypes.c_uint64, number, address], None
    masks.argtypes, masks.restype = [address, number, number, *[address] * 3, number, number, address], None
    return library


_library = _load()
_locked = _load(ctypes.PyDLL)  # the same functions, called without leaving the interpreter's lock
_scratch = Scratch()

available = _library is not None
"""Whether the extension was built."""


@dataclass(frozen=True)
class Linear:
    """One layer: `weight @ (act(x) * mask) + bias`, in the form the extension reads.

    Attributes:
        inputs, outputs: how many.
        relu: whether `act` is a ReLU; otherwise it is nothing.
        bias: `[panels, 64]`, padded with zeros.
        weights: `[panels, inputs, 64]`, padded with zeros.
    """

    inputs: int
    outputs: int
    relu: bool
    bias: Floats
    weights: Floats

    @classmethod
    def pack(cls, weight: Floats, bias: Floats | None, *, relu: bool) -> "Linear":
        """Pack `weight` `[outputs, inputs]`, finite numbers all, and `bias` `[outputs]`."""
        outputs, inputs = weight.shape
        panels = -(-outputs // PANEL)
        padded = np.zeros((panels * PANEL, inputs), np.float32)
        padded[:outputs] = weight
        weights = _aligned((panels, inputs, PANEL))
        weights[...] = padded.reshape(panels, PANEL, inputs).swapaxes(1, 2)
        biases = _aligned((panels, PANEL))
        biases.flat[:outputs] = 0.0 if bias is None else bias
        return cls(inputs, outputs, relu, biases, weights)


class MaskedChain:
    """Layers, one after another. Thread-safe."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self._layers = tuple(layers)  # keeps alive what the addresses below point at
        self._table = (_Layer * len(layers))(
            *(_Layer(x.inputs, x.outputs, x.relu, x.bias.ctypes.data, x.weights.ctypes.data) for x in layers)
        )
        self._addresses = ctypes.c_void_p * len(layers)  # a class, which is garbage of the slow kind if it is not kept
        self._block = max(1, min(_MOST_PAIRS_A_BLOCK, SCRATCH_BYTES // self._bytes(1)))

    def run(
        self,
        x: Floats,
        rows: npt.NDArray[np.int64],
        masks: Sequence[Floats | None],
        out: Floats,
        begin: int,
        end: int,
    ) -> None:
        """Write the outputs of the pairs `begin` to `end`.

        Args:
            x: `[rows, inputs]`.
            rows: `[pairs]`, which row each pair takes.
            masks: for each layer, `[pairs, inputs]`, or None where nothing is masked.
            out: `[pairs, outputs]`, to be written to.
            begin, end: of `pairs`. Different threads may run different parts at once.

        Raises:
            ValueError: an array has another shape, dtype or memory order; or a row is none of `x`.
        """
        first, last = self._layers[0], self._layers[-1]
        _check(x, np.float32, (len(x), first.inputs))
        _check(rows, np.int64, (len(rows),))
        _check(out, np.float32, (len(rows), last.outputs))
        for mask, layer in zip(masks, self._layers, strict=True):
            if mask is not None:
                _check(mask, np.float32, (len(rows), layer.inputs))
        if not 0 <= begin <= end <= len(rows):
            raise ValueError(f"the pairs {begin} to {end} of {len(rows)} were asked for")
        taken = rows[begin:end]
        if taken.size and (taken.min() < 0 or taken.max() >= len(x)):
            raise ValueError(f"the pairs take rows {taken.min()} to {taken.max()} of {len(x)}")
        block = max(1, min(self._block, end - begin))
        addresses = self._addresses(*(None if mask is None else mask.ctypes.data for mask in masks))
        assert _library is not None
        _library.masked_chain(
            self._table,
            len(self._layers),
            x.ctypes.data,
            rows.ctypes.data,
            addresses,
            begin,
            end,
            block,
            _scratch.memory(self._bytes(block)).ctypes.data,
            out.ctypes.data,
        )

    def _bytes(self, block: int) -> int:
        assert _library is not None
        return int(_library.masked_chain_scratch(self._table, len(self._layers), block))


@dataclass(frozen=True)
class Place:
    """Where the units of a site lie in the random words of a pass, and what becomes of them.

    Attributes:
        word, words: which words they take.
        units: how many units.
        bits: how many bits a unit takes: 1, 8 or 16.
        threshold: the least number of these that is kept.
        kept, dropped: what a unit becomes in each plane of the mask, one or two.
    """

    word: int
    words: int
    units: int
    bits: int
    threshold: int
    kept: Sequence[float]
    dropped: Sequence[float]


class MaskTable:
    """Draws the masks of some sites. Thread-safe."""

    def __init__(self, places: Sequence[Place], stride: int) -> None:
        """
        Args:
            places: of each site.
            stride: how many words a pass takes, a multiple of four.
        """
        self._places, self._stride = tuple(places), stride
        self._addresses = ctypes.c_void_p * len(places)  # a class, which is garbage of the slow kind if it is not kept
        self._bytes = 8 * stride + sum(4 * len(place.kept) * place.units for place in places)
        self._table = (_Place * len(places))(
            *(
                _Place(p.word, p.words, p.units, len(p.kept), p.bits, p.threshold, tuple(p.kept), tuple(p.dropped))
                for p in places
            )
        )

    def draw(
        self,
        keys: npt.NDArray[np.uint64],
        firsts: npt.NDArray[np.uint64],
        ends: npt.NDArray[np.int64],
        masks: Sequence[Floats],
        begin: int,
        end: int,
        *,
        locked: bool = False,
    ) -> None:
        """Write the masks of the pairs `begin` to `end`.

        Args:
            keys: `[rows, 2]`, of each row's stream.
            firsts: `[rows]`, each row's first pass.
            ends: `[rows]`, behind which pair the passes of each row end; those of the next follow.
            masks: for each place, `[pairs, planes, units]`, to be written to.
            begin, end: of the pairs. Different threads may draw different parts at once.
            locked: whether to keep the interpreter's lock, if it does not take long.

        Raises:
            ValueError: an array has another shape, dtype or memory order.
        """
        rows = len(keys)
        _check(keys, np.uint64, (rows, 2))
        _check(firsts, np.uint64, (rows,))
        _check(ends, np.int64, (rows,))
        pairs = int(ends[-1]) if rows else 0
        for mask, place in zip(masks, self._places, strict=True):
            _check(mask, np.float32, (pairs, len(place.kept), place.units))
        if not 0 <= begin <= end <= pairs or (rows and (ends[0] < 0 or np.any(ends[1:] < ends[:-1]))):
            raise ValueError(f"the pairs {begin} to {end} of rows that end at {ends.tolist()} were asked for")
        few = (end - begin) * self._bytes <= _FEW_BYTES
        library = _locked if locked and few else _library
        assert library is not None
        library.draw_masks(
            self._table,
            len(self._places),
            self._stride,
            keys.ctypes.data,
            firsts.ctypes.data,
            ends.ctypes.data,
            begin,
            end,
            self._addresses(*(mask.ctypes.data for mask in masks)),
        )


def philox_words(keys: npt.NDArray[np.uint64], block: int, count: int) -> npt.NDArray[np.uint64]:
    """The words that NumPy's `Philox` gives for each of some keys: those of `count` blocks of four, from `block` on.

    Args:
        keys: `[streams, 2]`.

    Returns:
        `[streams, 4 * count]`.
    """
    keys = np.ascontiguousarray(keys, np.uint64)
    words = np.empty((len(keys), 4 * count), np.uint64)
    assert _library is not None
    _library.philox_words(keys.ctypes.data, len(keys), block, count, words.ctypes.data)
    return words


def _aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros that begin with a cache line: the 64 floats of a panel are then 4 lines, not 5."""
    size = int(np.prod(shape)) * 4
    memory = np.zeros(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(np.float32).reshape(shape)


def _check(array: npt.NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"an array is {array.dtype} {list(array.shape)}; contiguous {np.dtype(dtype)} {list(shape)} is accepted"
        )
