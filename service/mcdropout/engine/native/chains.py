"""Chains of masked linear layers, computed by the C extension without the multiplications by zero."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.native.library import Floats, address_of, check_array, library
from mcdropout.engine.native.masks import MaskTable, Passes
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
_LINE = 64  # bytes of a cache line

_scratch = Scratch()


class _LayerFields(ctypes.Structure):
    """A `Linear` as the C extension reads it."""

    _fields_ = (
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("relu", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


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
        self._table = (_LayerFields * len(layers))(
            *(_LayerFields(x.inputs, x.outputs, x.relu, address_of(x.bias), address_of(x.weights)) for x in layers)
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
                check_array(mask, np.float32, (len(rows), layer.inputs))
        addresses = self._addresses(*(None if mask is None else address_of(mask) for mask in masks))
        self._share(library().masked_chain, x, rows, (addresses,), 0, out, tuple(masks))

    def run_drawn(
        self,
        x: Floats,
        rows: npt.NDArray[np.int64],
        table: MaskTable,
        sites: npt.NDArray[np.int64],
        passes: Passes,
        out: Floats,
    ) -> None:
        """The same under masks that are drawn meanwhile, to the bit those that `table` draws.

        Args:
            x: `[rows, inputs]`.
            rows: `[pairs]`, which row each pair takes.
            table: draws masks.
            sites: `[layers]`, which of its sites each layer's mask is of; -1 where nothing is masked.
            passes: which pass each pair is.
            out: `[pairs, outputs]`, to be written to.

        Raises:
            ValueError: an array has another shape, dtype or memory order; a row is none of `x`, or a mask none of a
                layer's.
        """
        self._check(x, rows, out)
        check_array(sites, np.int64, (len(self._layers),))
        if len(passes) != len(rows):
            raise ValueError(f"there are {len(passes)} passes for {len(rows)} pairs; as many are accepted")
        for site, layer in zip(sites.tolist(), self._layers, strict=True):
            table.check_units(site, layer.inputs)
        drawn = address_of(sites), table.address, table.stride, passes.address
        self._share(library().drawn_chain, x, rows, drawn, table.stride, out, (table, sites, passes))

    def _check(self, x: Floats, rows: npt.NDArray[np.int64], out: Floats) -> None:
        check_array(x, np.float32, (len(x), self._layers[0].inputs))
        check_array(rows, np.int64, (len(rows),))
        check_array(out, np.float32, (len(rows), self._layers[-1].outputs))
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
            into = address_of(progress), address_of(memory), address_of(out)
            function(self._table, len(self._layers), address_of(x), address_of(rows), *masks, pairs, block, *into)

        def help_out(_owners: tuple[Any, ...] = owners) -> None:  # which live as long as this may be called
            run(_scratch.memory(size))

        for _ in range(count - 1):
            try:
                pool().submit(help_out)
            except RuntimeError:  # there is no other thread, so this one does it all
                break
        run(memory)
        # Not for the others to end: where they did not even begin, or wait for the interpreter, all may be done.
        library().wait_for(address_of(progress), pairs)

    def _bytes(self, block: int, stride: int) -> int:
        return int(library().masked_chain_scratch(self._table, len(self._layers), block, stride))


def _aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros that begin with a cache line: the 64 floats of a panel are then 4 lines, not 5."""
    size = int(np.prod(shape)) * 4
    memory = np.zeros(size + _LINE, np.uint8)
    start = -address_of(memory) % _LINE
    return memory[start : start + size].view(np.float32).reshape(shape)
