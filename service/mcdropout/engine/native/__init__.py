"""The C extension `native.c`: drawn masks, and chains of masked linear layers without the multiplications by zero.

It is optional. Installing the package compiles it where there is a C compiler; where there is none, `available` is
false and other runtimes do its work. It is a plain shared library, called through ctypes, which lets other threads of
Python run meanwhile, unless the call is short.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.scratch import Scratch
from mcdropout.engine.threads import pool, thread_count

PANEL = 64
"""How many outputs are summed at once: layers are padded to a multiple of it."""
SCRATCH_BYTES = 8 * 2**20
"""The memory that one thread may take for intermediate values, in bytes (more where a single pair does)."""
# With fewer pairs than this, a second thread reads the weights again for too few of them.
_PAIRS_A_THREAD = 16
# Blocks of about so many pairs take the least time: larger ones leave the caches, smaller ones read the weights again.
_PAIRS_A_BLOCK = 96
_PROGRESS = 16  # two cache lines
_BLOCK_WORDS = 4  # of Philox
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


class _Passes(ctypes.Structure):
    _fields_ = (("keys", ctypes.c_void_p), ("firsts", ctypes.c_void_p), ("ends", ctypes.c_void_p))


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
    found = importlib.util.find_spec("mcdropout.engine.native._native")
    if found is None or found.origin is None:
        return None
    address, number = ctypes.c_void_p, ctypes.c_int64
    chain: tuple[list[Any], list[Any]] = ([address, number, *[address] * 2], [number, number, *[address] * 3])
    taken: dict[str, list[Any]] = {
        "masked_chain": [*chain[0], address, *chain[1]],
        "drawn_chain": [*chain[0], address, address, number, address, *chain[1]],
        "wait_for": [address, number],
        "draw_masks": [address, number, number, address, number, number, address],
        "philox_words": [address, number, ctypes.c_uint64, number, address],
    }
    try:
        library = kind(found.origin)
        for name, types in taken.items():
            function = library[name]
            function.argtypes, function.restype = types, None
            setattr(library, name, function)
        scratch = library.masked_chain_scratch
    except (OSError, AttributeError):  # built for another machine, or of another version
        return None
    scratch.argtypes, scratch.restype = [address, number, number, number], number
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
    """Layers, one after another, computed on all threads. Thread-safe."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self._layers = tuple(layers)  # keeps alive what the addresses below point at
        self._table = (_Layer * len(layers))(
            *(_Layer(x.inputs, x.outputs, x.relu, x.bias.ctypes.data, x.weights.ctypes.data) for x in layers)
        )
        self._addresses = ctypes.c_void_p * len(layers)  # a class, which is garbage of the slow kind if it is not kept

    def run(self, x: Floats, rows: npt.NDArray[np.int64], masks: Sequence[Floats | None], out: Floats) -> None:
        """Write the outputs of some pairs.

        Args:
            x: `[rows, inputs]`.
            rows: `[pairs]`, which row each pair takes.
            masks: for each layer, `[pairs, inputs]`, or None where nothing is masked.
            out: `[pairs, outputs]`, to be written to.

        Raises:
            ValueError: an array has another shape, dtype or memory order; or a row is none of `x`.
        """
        self._check(x, rows, out)
        for mask, layer in zip(masks, self._layers, strict=True):
            if mask is not None:
                _check(mask, np.float32, (len(rows), layer.inputs))
        addresses = self._addresses(*(None if mask is None else mask.ctypes.data for mask in masks))
        assert _library is not None
        self._share(_library.masked_chain, x, rows, (addresses,), 0, out, tuple(masks))

    def run_drawn(
        self,
        x: Floats,
        rows: npt.NDArray[np.int64],
        table: "MaskTable",
        sites: npt.NDArray[np.int64],
        passes: "Passes",
        out: Floats,
    ) -> None:
        """The same under masks that are drawn meanwhile, to the bit those that `table` draws.

        Args:
            x: `[rows, inputs]`.
            rows: `[pairs]`, which row each pair takes.
            table: draws masks.
            sites: `[layers]`, which of its places each layer's mask is; -1 where nothing is masked.
            passes: which pass each pair is.
            out: `[pairs, outputs]`, to be written to.

        Raises:
            ValueError: an array has another shape, dtype or memory order; a row is none of `x`, or a mask none of a
                layer's.
        """
        self._check(x, rows, out)
        _check(sites, np.int64, (len(self._layers),))
        if len(passes) != len(rows):
            raise ValueError(f"there are {len(passes)} passes for {len(rows)} pairs; as many are accepted")
        for site, layer in zip(sites.tolist(), self._layers, strict=True):
            table.check_place(site, layer.inputs)
        drawn = sites.ctypes.data, table.address, table.stride, passes.address
        assert _library is not None
        self._share(_library.drawn_chain, x, rows, drawn, table.stride, out, (table, sites, passes))

    def _check(self, x: Floats, rows: npt.NDArray[np.int64], out: Floats) -> None:
        _check(x, np.float32, (len(x), self._layers[0].inputs))
        _check(rows, np.int64, (len(rows),))
        _check(out, np.float32, (len(rows), self._layers[-1].outputs))
        if rows.size and (rows.min() < 0 or rows.max() >= len(x)):
            raise ValueError(f"the pairs take rows {rows.min()} to {rows.max()} of {len(x)}")

    def _share(
        self,
        function: Any,
        x: Floats,
        rows: npt.NDArray[np.int64],
        masks: tuple[Any, ...],
        stride: int,
        out: Floats,
        owners: tuple[Any, ...],
    ) -> None:
        """Have some threads take blocks of the pairs until there are none left.

        `masks` are arguments of the function, and `owners` what holds the memory that they point at.
        """
        pairs = len(rows)
        count = max(1, min(thread_count(), pairs // _PAIRS_A_THREAD))
        rounds = max(1, pairs // (count * _PAIRS_A_BLOCK))
        block = max(1, min(-(-pairs // (count * rounds)), SCRATCH_BYTES // self._bytes(1, stride)))
        progress = np.zeros(_PROGRESS, np.int64)
        size = self._bytes(block, stride)
        memory = _scratch.memory(size)

        def run(memory: npt.NDArray[np.uint8]) -> None:
            into = progress.ctypes.data, memory.ctypes.data, out.ctypes.data
            function(self._table, len(self._layers), x.ctypes.data, rows.ctypes.data, *masks, pairs, block, *into)

        def help_out(_owners: tuple[Any, ...] = owners) -> None:  # which live as long as this may be called
            run(_scratch.memory(size))

        for _ in range(count - 1):
            try:
                pool().submit(help_out)
            except RuntimeError:  # there is no other thread, so this one does it all
                break
        run(memory)
        # Not for the others to end: where they did not even begin, or wait for the interpreter, all may be done.
        assert _library is not None
        _library.wait_for(progress.ctypes.data, pairs)

    def _bytes(self, block: int, stride: int) -> int:
        assert _library is not None
        return int(_library.masked_chain_scratch(self._table, len(self._layers), block, stride))


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


class Passes:
    """Some passes of each of several rows; those of a row are next to one another. One of them is a pair.

    Attributes:
        keys: `[rows, 2]`, of each row's stream of random words.
        firsts: `[rows]`, each row's first pass.
        ends: `[rows]`, behind which pair the passes of each row end.
    """

    def __init__(
        self, keys: npt.NDArray[np.uint64], firsts: npt.NDArray[np.uint64], ends: npt.NDArray[np.int64]
    ) -> None:
        """
        Raises:
            ValueError: an array has another shape, dtype or memory order; or a row ends before it begins.
        """
        rows = len(keys)
        _check(keys, np.uint64, (rows, 2))
        _check(firsts, np.uint64, (rows,))
        _check(ends, np.int64, (rows,))
        if rows and (ends[0] < 0 or np.any(ends[1:] < ends[:-1])):
            raise ValueError(f"the passes of rows end at {ends.tolist()}; ascending order is accepted")
        self.keys, self.firsts, self.ends = keys, firsts, ends
        self._pairs = int(ends[-1]) if rows else 0
        self._fields = _Passes(keys.ctypes.data, firsts.ctypes.data, ends.ctypes.data)
        self.address = ctypes.addressof(self._fields)

    def __len__(self) -> int:
        """How many pairs."""
        return self._pairs


class MaskTable:
    """Draws the masks of some sites. Thread-safe.

    Attributes:
        stride: how many words a pass takes, a multiple of four.
        address: of the places in memory.
    """

    def __init__(self, places: Sequence[Place], stride: int) -> None:
        """
        Args:
            places: of each site.
            stride: how many words a pass takes, a multiple of four.

        Raises:
            ValueError: a place lies outside, or has no room for its units.
        """
        if stride % _BLOCK_WORDS:
            raise ValueError(f"the stride is {stride}; a multiple of {_BLOCK_WORDS} is accepted")
        for place in places:
            inside = 0 <= place.word <= place.word + place.words <= stride
            if not inside or place.bits not in (1, 8, 16) or not 0 <= place.units * place.bits <= 64 * place.words:
                raise ValueError(f"{place} does not fit into {stride} words of 64 bits; 1, 8 or 16 bits are accepted")
        self._places, self.stride = tuple(places), stride
        self._addresses = ctypes.c_void_p * len(places)  # a class, which is garbage of the slow kind if it is not kept
        self._bytes = 8 * stride + sum(4 * len(place.kept) * place.units for place in places)
        self._table = (_Place * len(places))(
            *(
                _Place(p.word, p.words, p.units, len(p.kept), p.bits, p.threshold, tuple(p.kept), tuple(p.dropped))
                for p in places
            )
        )
        self.address = ctypes.addressof(self._table)

    def check_place(self, index: int, units: int) -> None:
        """Raise ValueError unless a place has so many units in one plane, or the index is -1."""
        if index == -1:
            return
        place = self._places[index] if 0 <= index < len(self._places) else None
        if place is None or place.units != units or len(place.kept) != 1:
            raise ValueError(f"the mask {index} is not one of {units} units")

    def draw(self, passes: Passes, masks: Sequence[Floats], begin: int, end: int, *, locked: bool = False) -> None:
        """Write the masks of the pairs `begin` to `end`.

        Args:
            passes: which pass each pair is.
            masks: for each place, `[pairs, planes, units]`, to be written to.
            begin, end: of the pairs. Different threads may draw different parts at once.
            locked: whether to keep the interpreter's lock, if it does not take long.

        Raises:
            ValueError: a mask has another shape, dtype or memory order.
        """
        for mask, place in zip(masks, self._places, strict=True):
            _check(mask, np.float32, (len(passes), len(place.kept), place.units))
        if not 0 <= begin <= end <= len(passes):
            raise ValueError(f"the pairs {begin} to {end} of {len(passes)} were asked for")
        few = (end - begin) * self._bytes <= _FEW_BYTES
        library = _locked if locked and few else _library
        assert library is not None
        addresses = self._addresses(*(mask.ctypes.data for mask in masks))
        library.draw_masks(self._table, len(self._places), self.stride, passes.address, begin, end, addresses)


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
