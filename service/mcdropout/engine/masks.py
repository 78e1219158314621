"""Masks: what each site multiplies by, drawn from a counter-based generator that keeps no state.

A mask is a function of (seed, row, pass, site, unit) and of nothing else: not of the batch that the row shares, nor of
the machine, the runtime, or how the passes are cut into steps. The mapping, which never changes silently (golden-value
tests hold it):

- The generator is Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") as NumPy's
  `Philox` runs it: key `(seed, row)`, and block `b` of the stream, of four 64-bit words, encrypts the counter `b + 1`.
  `row` is the row's index in its request; `PASS_ROW` stands for "no row" and keys the sites that have no row dimension.
- One pass of one row takes `stride` words, a multiple of four; pass `n` starts at word `n * stride`, so that the
  passes `n .. n+k` of a row are one contiguous read.
- In a pass, the sites of one scope follow one another in order, each beginning at a whole word. A unit takes as few
  bits as say its probability: 1 where p is a multiple of 1/2, else 8 where it is a multiple of 1/256, else 16 or 32
  where these tell p and 1 - p, each to a thousandth of itself, else 64. So p = 0.01 takes 16, and a learned p = 1e-5,
  of which 16 bits would make 1.5e-5, takes 32. What 64 bits do not tell is a p below 3e-17, and they miss it by less
  than 2**-65: so many draws as would show it are never made.
  Words are little-endian; single bits are taken from the lowest of each byte up.
- A unit is kept where its number, of `bits` bits, is at least `round(p * 2**bits)`; a kept Bernoulli number is 1.
  (A `p` that is a double is multiplied by a power of two exactly.)
- Uniform and normal numbers take 32 bits, `n`. A uniform one is `(n >> 8) / 2**24`. Two neighbours `a` and `b` give two
  normal ones, `r cos(t)` and `r sin(t)` with `r = sqrt(-2 log((a + 1) / 2**32))` and `t = 2 pi b / 2**32` (Box & Muller
  1958); an odd count leaves out the last.

Fewer bits than a fixed 16 were measured on two cores: 400 passes of a 784-1024-1024-1024 network draw their masks
2.9 times faster.
"""

import functools
import itertools
import math
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mcdropout.engine.kinds import NEARLY_ONE, UNIFORM
from mcdropout.engine.native import library
from mcdropout.engine.native.masks import MaskTable, Passes, UnitLayout
from mcdropout.engine.scratch import Scratch
from mcdropout.engine.sites import Site
from mcdropout.engine.streams import BLOCK_WORDS, read
from mcdropout.engine.threads import at_once, thread_count

MAPPING: Final = 2
"""The version of the mapping above. The first took 16 bits wherever 1 or 8 do not do."""
MAX_SEED = 2**64 - 1
_LARGEST_JSON_INTEGER = 2**53  # that every reader of JSON holds exactly
PASS_ROW = 2**64 - 1
"""The row index that keys the masks of sites without a row dimension; no row of a request may have it."""

_MOST_ERROR = 1e-3  # of p and of 1 - p, relative
# Below this many words a second thread costs more than it saves.
_WORDS_A_THREAD = 16_384
_LINE = 64  # bytes of a cache line

Masks = list[npt.NDArray[np.float32]]


def drawn_seed() -> int:
    """A seed for a request that names none, one that JSON's numbers hold exactly."""
    return secrets.randbelow(_LARGEST_JSON_INTEGER)


def bits_of(p: float) -> int:
    """How many bits a unit takes that is dropped with probability `p`."""
    for bits in (1, 8):
        if (p * 2**bits).is_integer():
            return bits
    return next((bits for bits in (16, 32) if abs(round(p * 2**bits) / 2**bits - p) <= _MOST_ERROR * min(p, 1 - p)), 64)


def same_masks(mapping: int, sites: Sequence[Site]) -> bool:
    """Whether an earlier version of the mapping draws these sites' masks as this one does."""
    return mapping == MAPPING or (mapping == 1 and all(site.p is None or bits_of(site.p) <= 16 for site in sites))


_scratch = Scratch()


@dataclass(frozen=True)
class _SiteWords:
    """Where the units of one site, the `index`-th of all, lie in the words of a pass.

    A unit takes `bits` bits, and is dropped below `threshold`; None for numbers that are not compared.
    """

    index: int
    site: Site
    word: int
    words: int
    bits: int
    threshold: int | None


class MaskSource:
    """Draws the masks of a network's sites."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self._rows = _Layout(sites, "row")
        self._passes = _Layout(sites, "pass")

    @property
    def shares_rows(self) -> bool:
        """Whether rows of different requests may share a batch: no site's mask is shared by rows."""
        return not self._passes.entries

    @property
    def has_raw_sites(self) -> bool:
        """Whether some masks are numbers for the network's own code, of which none mean "nothing dropped"."""
        return any(site.raw for site in self.sites)

    @property
    def bytes_per_pass(self) -> int:
        """Memory of the masks and the random bits of one pass of one row, in bytes."""
        return self._rows.bytes

    @property
    def shared_bytes(self) -> int:
        """The same of what the rows of a pass share."""
        return self._passes.bytes

    def draw(
        self,
        seeds: npt.ArrayLike,
        rows: npt.ArrayLike,
        first: npt.ArrayLike,
        passes: npt.ArrayLike,
        *,
        overwrite: bool = False,
    ) -> Masks:
        """The masks of some passes of each of several rows.

        Args:
            seeds: `[rows]`, the seed of the request that each row belongs to.
            rows: `[rows]`, each row's index in its request.
            first: `[rows]`, each row's first pass, from 0; or one number for all rows.
            passes: `[rows]`, how many passes each row has from there on; or one number for all rows.
            overwrite: whether what this thread drew with it before is needed no more. Its memory is taken again then:
                to get fresh pages costs several times what it costs to draw.

        Returns:
            One float32 array for each site, in the order of `sites`: `[pairs, *mask_shape]`, a pair being a pass of a
            row; the passes of a row are next to one another. Of a site whose scope is "pass", `[*mask_shape]`: `passes`
            must be 1 then, and the seeds and first passes equal.
        """
        if not self.shares_rows:
            if np.any(np.asarray(passes) != 1):
                raise ValueError("a mask without a row dimension serves one pass at a time; draw_each draws several")
            return self.draw_each(seeds, rows, int(np.ravel(first)[0]), 1)[0]
        return self.undrawn(seeds, rows, first, passes).draw(overwrite=overwrite)

    def undrawn(
        self, seeds: npt.ArrayLike, rows: npt.ArrayLike, first: npt.ArrayLike, passes: npt.ArrayLike
    ) -> "Undrawn":
        """What `draw` would draw, for a runtime that does it itself; only where rows are shared."""
        return Undrawn(self._rows, Passes(seeds, np.asarray(rows), first, passes))

    def draw_each(self, seeds: npt.ArrayLike, rows: npt.ArrayLike, first: int, passes: int) -> list[Masks]:
        """What `draw` returns for each of several passes, drawn together; the seeds must be equal."""
        of_rows = Passes(seeds, np.asarray(rows), first, passes)
        seed = of_rows.keys[0, 0]
        if (of_rows.keys[:, 0] != seed).any():
            raise ValueError("a mask without a row dimension serves one request at a time")
        drawn = _draw(self._rows, of_rows)
        own = [mask.reshape(-1, passes, *mask.shape[1:]) for mask in drawn]
        shared = _draw(self._passes, Passes(seed, np.array([PASS_ROW], np.uint64), first, passes))
        each: list[Masks] = []
        for number in range(passes):
            masks: Masks = [np.empty(0, np.float32)] * len(self.sites)
            for entry, mask in zip(self._rows.entries, own, strict=True):
                masks[entry.index] = mask[:, number]
            for entry, mask in zip(self._passes.entries, shared, strict=True):
                masks[entry.index] = mask[number, ...]
            each.append(masks)
        return each

    def baseline(self, count: int) -> Masks:
        """The masks of the baseline, for `count` rows: those that keep everything.

        None where sites draw numbers for the network's own code: its baseline is another program, without masks.
        """
        return [] if self.has_raw_sites else self.keep_everything(count)

    def keep_everything(self, count: int) -> Masks:
        """Masks under which no unit is dropped and none is scaled, for `count` rows.

        For sites whose masks are numbers for the network's own code there are no such masks: they get ones, or nearly,
        which are good for an example only.
        """
        masks: Masks = []
        for site in self.sites:
            shape = (count, *site.mask_shape) if site.scope == "row" else site.mask_shape
            mask = np.full(shape, NEARLY_ONE if site.kind == UNIFORM else 1.0, np.float32)
            if site.shifted:
                mask[(slice(None), 1) if site.scope == "row" else 1] = 0.0
            masks.append(mask)
        return masks


class _Layout:
    """The order in which the units of the sites of one scope lie in the words of a pass."""

    def __init__(self, sites: Sequence[Site], scope: str) -> None:
        self.entries: list[_SiteWords] = []
        word = 0
        for index, site in enumerate(sites):
            if site.scope != scope:
                continue
            bits, threshold, units = 32, None, site.units + site.units % 2
            if site.p is not None:
                bits, units = bits_of(site.p), site.units
                threshold = round(site.p * 2**bits)
            words = -(-units * bits // 64)
            self.entries.append(_SiteWords(index, site, word, words, bits, threshold))
            word += words
        self.stride = -(-word // BLOCK_WORDS) * BLOCK_WORDS
        self.shapes = [entry.site.mask_shape for entry in self.entries]
        native = library.available() and sys.byteorder == "little"
        self.table = MaskTable([_units(entry) for entry in self.entries], self.stride) if native else None
        self.bytes = 8 * self.stride + sum(4 * int(np.prod(entry.site.mask_shape)) for entry in self.entries)

    def fill(self, words: npt.NDArray[np.uint64], masks: Masks) -> None:
        """Turn words `[rows, passes, stride]` into masks, each `[rows, passes, *mask_shape]`."""
        for entry, mask in zip(self.entries, masks, strict=True):
            taken = np.ascontiguousarray(words[..., entry.word : entry.word + entry.words], "<u8")
            if entry.threshold is None:
                drawn = _numbers(taken.view("<u4"), entry.site.kind)
                mask[...] = drawn[..., : entry.site.units].reshape(mask.shape)
                continue
            (factor, summand), (dropped_factor, dropped_summand) = entry.site.kept, entry.site.dropped
            planes = mask.reshape(*mask.shape[:2], -1, entry.site.units)
            if entry.bits == 1 and entry.threshold == 1 and entry.site.units % 8 == 0 and not entry.site.shifted:
                _choose_eight(taken, factor, planes[:, :, 0])
                continue
            kept = _kept(taken, entry, entry.threshold)
            _choose(kept, factor, dropped_factor, planes[:, :, 0])
            if entry.site.shifted:
                _choose(kept, summand, dropped_summand, planes[:, :, 1])


def _units(entry: _SiteWords) -> UnitLayout:
    """A site as the C extension draws it."""
    site, place = entry.site, (entry.word, entry.words, entry.site.units, entry.bits)
    if entry.threshold is None:
        return UnitLayout(*place, drawn="uniform" if site.kind == UNIFORM else "normal")
    planes = 2 if site.shifted else 1
    return UnitLayout(*place, entry.threshold, site.kept[:planes], site.dropped[:planes])


@dataclass(frozen=True)
class Undrawn:
    """The masks of some passes of each of several rows, which are not drawn yet.

    Attributes:
        passes: which.
    """

    _layout: _Layout
    passes: Passes

    @property
    def table(self) -> MaskTable | None:
        """What draws them natively, one layout a site; None where NumPy has to."""
        return self._layout.table if library.available() else None

    def draw(self, *, overwrite: bool = False) -> Masks:
        """The masks; see `MaskSource.draw`."""
        return _draw(self._layout, self.passes, _scratch if overwrite else None)


def _draw(layout: _Layout, passes: Passes, scratch: Scratch | None = None) -> Masks:
    """The masks of a layout's sites, `[pairs, *mask_shape]`."""
    pairs = len(passes)
    shapes = [(pairs, *shape) for shape in layout.shapes]
    masks = [np.empty(shape, np.float32) for shape in shapes] if scratch is None else _arrays(scratch, shapes)
    if not pairs * layout.stride:
        return masks
    if library.available() and layout.table is not None:
        threads = min(thread_count(), 1 + pairs * layout.stride // _WORDS_A_THREAD)
        if threads == 1:
            layout.table.draw(passes, masks, 0, pairs, locked=True)
        else:
            at_once(threads, pairs, functools.partial(layout.table.draw, passes, masks))
        return masks
    keys, firsts, ends = passes.keys, passes.firsts, passes.ends
    begin = 0
    for same in _runs(firsts, np.diff(ends, prepend=0)):  # rows with the same passes
        end, start, count = int(ends[same.stop - 1]), int(firsts[same.start]), (int(ends[same.start]) - begin)
        if not count:
            continue
        shape = same.stop - same.start, count
        _draw_block(
            layout, keys[same], start, count, [mask[begin:end].reshape(*shape, *mask.shape[1:]) for mask in masks]
        )
        begin = end
    return masks


def _arrays(scratch: Scratch, shapes: Sequence[tuple[int, ...]]) -> Masks:
    """Arrays of these shapes, each from the beginning of a cache line of the memory on."""
    sizes = [4 * math.prod(shape) for shape in shapes]
    memory = scratch.memory(sum(sizes) + _LINE * len(sizes))
    masks: Masks = []
    start = 0
    for size, shape in zip(sizes, shapes, strict=True):
        masks.append(memory[start : start + size].view(np.float32).reshape(shape))
        start += -(-size // _LINE) * _LINE
    return masks


def _draw_block(layout: _Layout, keys: npt.NDArray[np.uint64], first: int, passes: int, masks: Masks) -> None:
    """Write the masks `[keys, passes, *mask_shape]` with NumPy."""

    def draw(begin: int, end: int) -> None:
        which, some = (slice(begin, end), slice(0, passes)) if by_rows else (slice(None), slice(begin, end))
        start, count = first + some.start, some.stop - some.start
        words = read(keys[which], start * layout.stride, count * layout.stride)
        layout.fill(words.reshape(-1, count, layout.stride), [mask[which, some] for mask in masks])

    threads = min(thread_count(), 1 + len(keys) * passes * layout.stride // _WORDS_A_THREAD)
    by_rows = len(keys) >= threads
    at_once(threads, len(keys) if by_rows else passes, draw)


def _runs(*columns: npt.NDArray[Any]) -> Iterator[slice]:
    """Where neighbours are equal in all columns."""
    changes = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(columns[0])]
    return (slice(*pair) for pair in itertools.pairwise(bounds))


def _kept(words: npt.NDArray[np.uint64], entry: _SiteWords, threshold: int) -> npt.NDArray[np.uint8]:
    """Which units are kept: 1 or 0, `[rows, passes, units]`."""
    units = entry.site.units
    if entry.bits == 1 and threshold == 1:
        return np.unpackbits(words.view(np.uint8), axis=-1, count=units, bitorder="little")
    if threshold >= 2**entry.bits:
        return np.zeros((*words.shape[:-1], units), np.uint8)
    numbers = words.view(f"<u{entry.bits // 8}")[..., :units]
    return (numbers >= threshold).view(np.uint8)


def _numbers(words: npt.NDArray[np.uint32], kind: str) -> npt.NDArray[np.floating]:
    """Uniform or normal numbers `[rows, passes, ...]`, as many as there are words of 32 bits."""
    if kind == UNIFORM:
        return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    radius = np.sqrt(-2.0 * np.log((words[..., ::2] + 1.0) * 2.0**-32))
    turn = words[..., 1::2] * (2.0 * np.pi * 2.0**-32)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1).reshape(words.shape)


_EIGHT_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float32)


def _choose_eight(words: npt.NDArray[np.uint64], value: float, out: npt.NDArray[np.float32]) -> None:
    """`_choose` between `value` and 0 by single bits, a byte at a time, in half the time."""
    eights = out.reshape(*out.shape[:2], -1, 8)
    bytes_used = words.view(np.uint8)[..., : eights.shape[2]]
    np.take(_EIGHT_BITS * np.float32(value), bytes_used, axis=0, out=eights, mode="clip")


def _choose(kept: npt.NDArray[np.uint8], value: float, other: float, out: npt.NDArray[np.float32]) -> None:
    if other == 0.0:  # in two steps, each without a buffer in between
        np.copyto(out, kept)
        out *= np.float32(value)
    else:
        out[...] = np.where(kept, np.float32(value), np.float32(other))
