"""Trials: rows that the examples do not hold, on which a network and its programs are tried too.

Example rows may be alike in just what matters: all of one length, none padded, in an order that need not be changed, of
ordinary size. A network that sorts its rows, that leaves early where it is sure, or that takes padding out, looks then
as if each row were answered by itself, and the first real request shows otherwise. So the examples are varied. What the
network itself does not take, or answers with NaN, or so that rounding decides, is no trial.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, with_rows

# What floats are multiplied by, a number a row: from nothing to far beyond, where a network is sure of its answer. One
# that decides for all rows at once decides otherwise for one of them.
_SIZES = {
    "rows of very different sizes": (1.0, 0.0, 100.0),
    "rows of other sizes and signs": (-100.0, 10.0, 0.01),
    "a few rows that are much larger": (1e4, 0.5, -1e4),
    "large rows": (300.0, -1e3, 1e4),
}
# How much of what a row holds is left where rows are shortened, a number a row.
_LENGTHS = {"shorter": (1.0, 0.5, 0.0), "longer": (0.0, 0.5, 1.0), "shortest in the middle": (0.8, 0.0, 0.5)}
_MORE_ROWS = 9
_LARGEST_PADDING = 1e5  # a number that code compares with and that is larger is a bound
_SEED = 20160619
_SHAKEN, _MOVED = 1 / 40, 1 / 4  # of the tolerance


@dataclass(frozen=True)
class Variant:
    """Rows to try a network on.

    Attributes:
        name: how they differ from the examples, as a phrase.
        inputs: `[rows, ...]` each.
        ordinary: whether they are so much like the examples that a network which is served has to answer them.
    """

    name: str
    inputs: tuple[Array, ...]
    ordinary: bool = False


@dataclass(frozen=True)
class Trial:
    """What a network itself answered to rows that the examples do not hold.

    Attributes:
        name: how they differ from the examples, as a phrase.
        inputs: `[rows, ...]` each.
        number: of the pass under whose masks it answered.
        outputs: `[rows, ...]` each.
    """

    name: str
    inputs: tuple[Array, ...]
    number: int
    outputs: tuple[Array, ...]


def unlike_rows(x: Array, given: int, fixed: Sequence[float] = ()) -> Array:
    """Make the rows of `x` after the first `given`, which repeat them, unlike them, and rows that equal one before.

    Between equal rows it does not show that they influence each other. Numbers are scaled by 0.5 to 1, so that they
    keep their sign and size (a row of zeros becomes 0 to 1); whole numbers of a row change places. Those that are
    `fixed` stay as and where they are.
    """
    x, generator = x.copy(), np.random.default_rng(_SEED)
    for row in range(len(x)):
        if row < given and not any(np.array_equal(x[row], x[earlier]) for earlier in range(row)):
            continue
        values = x[row : row + 1]
        moves = ~np.isin(values, fixed)
        if not np.issubdtype(x.dtype, np.floating):
            values[moves] = generator.permutation(values[moves])
        elif values.any():
            values[moves] *= generator.uniform(0.5, 1.0, values.shape).astype(x.dtype)[moves]
        else:
            values[moves] = generator.random(values.shape)[moves]
    return x


def unpadded(arrays: tuple[Array, ...], padding: float = 0) -> Iterator[tuple[Array, ...]]:
    """Examples in which a network that takes padding out finds none: masks that keep all, lengths that are the
    largest, or as many as there are steps, other tokens in the place of padding, and other numbers in that of it, of
    zeros and of NaN.

    Args:
        arrays: the examples, `[rows, ...]` each.
        padding: what stands behind the last of a row.
    """
    lengths = max((int(x.max()) for x in arrays if _can_be_lengths(x)), default=0)
    steps = [x.shape[1] for x in arrays if x.ndim > 1 and x.shape[1] > lengths]
    for length in (min(steps), lengths) if lengths and steps else (lengths,):
        for kept in (1, 0):  # in a mask
            yield tuple(_unpadded(x, padding, kept, length) for x in arrays)


def alike(arrays: tuple[Array, ...], fixed: Sequence[float] = ()) -> Iterator[tuple[Array, ...]]:
    """Examples that are all much like one of them, for each; numbers that are `fixed` are in the same places."""
    for row in range(len(arrays[0])):
        yield tuple(unlike_rows(np.repeat(x[row : row + 1], len(x), axis=0), 1, fixed) for x in arrays)


def _unpadded(x: Array, padding: float, kept: int, length: int) -> Array:
    if _can_be_padded_mask(x):
        return np.full_like(x, kept)
    if _can_be_lengths(x):
        return np.full_like(x, length)
    if _can_be_padded_tokens(x):
        tokens = np.where(x == padding, x.min(), x).max(axis=1, keepdims=True)
        return np.where(x == padding, tokens, x)
    if np.issubdtype(x.dtype, np.floating):
        return np.where(np.isnan(x) | (x == 0) | (x == padding), np.full_like(x, 2 if padding == 1 else 1), x)
    return x


def varied(
    arrays: tuple[Array, ...],
    padding: int = 0,
    missing: Sequence[bool] = (),
    compared: Sequence[float] = (),
) -> list[Variant]:
    """Examples in other orders, numbers, lengths, paddings and sizes, each unlike the examples and the others.

    Args:
        arrays: the examples, `[rows, ...]` each.
        padding: the token that stands behind the last of a row.
        missing: of each input, whether NaN may stand for what is missing; of none, where not given.
        compared: numbers that a network's code compares with, each of which may be what it takes for padding.
    """
    found = [Variant("the examples", arrays)]
    for variant in (*_all(arrays, padding, compared), *_with_gaps(arrays, missing)):
        if not any(_equal(variant.inputs, earlier.inputs) for earlier in found):
            found.append(variant)
    return found[1:]


def _all(arrays: tuple[Array, ...], padding: int, compared: Sequence[float]) -> Iterator[Variant]:
    yield Variant("rows in another order", tuple(np.ascontiguousarray(x[::-1]) for x in arrays), ordinary=True)
    more = [with_rows(x, _MORE_ROWS) for x in arrays]
    unlike = tuple(x if _is_mask(x) else unlike_rows(x, len(arrays[0])) for x in more)
    yield Variant("more rows", unlike, ordinary=True)
    yield Variant("rows made of the examples' numbers", tuple(map(_recombined, more)), ordinary=True)
    padded_tokens = partial(_padded_tokens, padding=padding)
    for end, shares in _LENGTHS.items():
        for what, shorten in (
            ("lengths", (_lengths,)),
            ("masks", (_padded_mask,)),
            ("tokens", (padded_tokens,)),
            ("steps", (_zero_steps,)),
            ("lengths, masks and tokens", (_lengths, _padded_mask, padded_tokens)),
        ):
            yield Variant(f"{what} that get {end}", _shortened(arrays, shares, shorten))
        for number, dimension in product((x for x in compared if abs(x) <= _LARGEST_PADDING), (1, -1)):
            fill_up = partial(_padded_with, number=number, dimension=dimension)
            yield Variant(f"rows filled up with {number:g} that get {end}", _shortened(arrays, shares, (fill_up,)))
            with_masks = _shortened(arrays, shares, (_padded_mask, fill_up))
            yield Variant(f"masks, and rows filled up with {number:g}, that get {end}", with_masks)
    at_the_end = _shortened(arrays, _LENGTHS["longer"], (_padded_mask, padded_tokens))
    unpadded = [np.array_equal(x, y) for x, y in zip(arrays, at_the_end, strict=True)]
    turned = (x if same else x[..., ::-1] for x, same in zip(at_the_end, unpadded, strict=True))
    yield Variant("masks and tokens padded at the beginning", tuple(map(np.ascontiguousarray, turned)))
    for name, sizes in _SIZES.items():
        yield Variant(name, tuple(_scaled(x, sizes) for x in arrays))


def _with_gaps(arrays: tuple[Array, ...], missing: Sequence[bool]) -> Iterator[Variant]:
    """Examples in which numbers are missing, in each row others; half of a row or nearly all, in turns."""
    if not any(missing):
        return
    for name, share in (("a few numbers missing", 0.25), ("most numbers missing", 0.75)):
        generator = np.random.default_rng(_SEED)
        inputs = []
        for x, may in zip(arrays, missing, strict=True):
            gaps = generator.random(x.shape) < share
            inputs.append(np.where(gaps, np.nan, x).astype(x.dtype) if may and x.dtype.kind == "f" else x)
        yield Variant(name, tuple(inputs))


def _equal(some: tuple[Array, ...], others: tuple[Array, ...]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)


def _shortened(
    arrays: tuple[Array, ...],
    shares: Sequence[float],
    shorten: Sequence[Callable[[Array, Sequence[float]], Array | None]],
) -> tuple[Array, ...]:
    """Examples, each shortened as the first of some ways does that knows what it is."""
    return tuple(next((y for way in shorten if (y := way(x, shares)) is not None), x) for x in arrays)


def _recombined(x: Array) -> Array:
    """Of floats in a single dimension, rows that have each number from another row; anything else as it is."""
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating):
        return x
    rows = np.random.default_rng(_SEED).integers(0, len(x), x.shape)
    return np.take_along_axis(x, rows, axis=0)


def _share(shares: Sequence[float], row: int) -> float:
    return shares[row % len(shares)]


def _lengths(x: Array, shares: Sequence[float]) -> Array | None:
    """Of one whole number a row, others from 1 to the largest; None of anything else."""
    if not _can_be_lengths(x):
        return None
    least, most = min(1, int(x.min())), int(x.max())
    values = [least + round(_share(shares, row) * (most - least)) for row in range(len(x))]
    return np.array(values, x.dtype).reshape(x.shape)


def _can_be_lengths(x: Array) -> bool:
    return np.issubdtype(x.dtype, np.integer) and x[0].size == 1 and x.max() >= 2


def _is_mask(x: Array) -> bool:
    return bool(np.isin(x, (0, 1)).all())


def _can_be_padded_mask(x: Array) -> bool:
    return x.ndim >= 2 and x.shape[-1] >= 2 and _is_mask(x)


def _padded_mask(x: Array, shares: Sequence[float]) -> Array | None:
    """Of zeros and ones, rows whose ends are what their beginnings are not; None of anything else.

    Where all is 0, as in a mask that says what to leave out, ends become 1.
    """
    if not _can_be_padded_mask(x):
        return None
    first = x[..., :1]
    other = 1 - first.astype(np.int64) if (first == first.flat[0]).all() else np.zeros_like(first)
    return _with_ends(x, shares, other.astype(x.dtype))


def _padded_tokens(x: Array, shares: Sequence[float], padding: int) -> Array | None:
    """Of whole numbers in a row, rows that end in padding; None of anything else."""
    if not _can_be_padded_tokens(x):
        return None
    return _with_ends(x, shares, np.full((len(x), 1), padding, x.dtype))


def _can_be_padded_tokens(x: Array) -> bool:
    return x.ndim == 2 and x.shape[1] >= 2 and np.issubdtype(x.dtype, np.integer) and x.min() >= 0 and x.max() >= 2


def _zero_steps(x: Array, shares: Sequence[float]) -> Array | None:
    """Of floats a step, rows that end in steps of zeros; None of anything else."""
    if not _has_steps(x):
        return None
    steps = _with_ends(np.ones(x.shape[:2], bool), shares, np.zeros((len(x), 1), bool))
    return np.where(steps[..., None], x, np.zeros_like(x))


def _padded_with(x: Array, shares: Sequence[float], number: float, dimension: int) -> Array | None:
    """Rows whose ends in a dimension are a number; None of anything that has none, or cannot hold it."""
    if x.ndim < 2 or _is_mask(x) or not _holds(x.dtype, number):
        return None
    other = np.full((len(x), *[1] * (x.ndim - 1)), number, x.dtype)
    return np.ascontiguousarray(np.moveaxis(_with_ends(np.moveaxis(x, dimension, -1), shares, other), -1, dimension))


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Whether a number can be one of a kind."""
    if dtype.kind not in "iu":
        return dtype.kind == "f"
    return float(number).is_integer() and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max


def _has_steps(x: Array) -> bool:
    return x.ndim == 3 and x.shape[1] >= 2 and np.issubdtype(x.dtype, np.floating) and not _is_mask(x)


def _with_ends(x: Array, shares: Sequence[float], other: Array) -> Array:
    """The rows, of which only a share is left, and at least one entry; behind it stands `other`."""
    steps = x.shape[-1]
    kept = np.array([max(1, round(_share(shares, row) * steps)) for row in range(len(x))])
    stays = np.arange(steps) < kept.reshape(-1, *[1] * (x.ndim - 1))
    return np.where(stays, x, other)


def _scaled(x: Array, sizes: Sequence[float]) -> Array:
    """Floats that are no mask, each row times a number."""
    if not np.issubdtype(x.dtype, np.floating) or _is_mask(x):
        return x
    factors = np.array([_share(sizes, row) for row in range(len(x))])
    with np.errstate(over="ignore"):  # what is infinite in a narrow type is no trial
        scaled: Array = (x * factors.reshape(-1, *[1] * (x.ndim - 1))).astype(x.dtype)
    return scaled


def steady(
    run: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    inputs: tuple[Array, ...],
    like: tuple[Array, ...],
    tolerance: float,
) -> bool:
    """Whether a network takes some rows, and answers them so that a comparison of its answers says something.

    It does not where an answer is not finite, or where a change of the inputs far below the tolerance moves it: a
    program, which computes in another order, may then rightly answer otherwise.

    Args:
        run: the network with nothing dropped.
        inputs: `[rows, ...]` each.
        like: its outputs for the examples, in whose shapes these must be but for the rows.
        tolerance: how far a program may be from the network.
    """
    try:
        outputs = run(inputs)
        shaken = run(tuple(_shaken(x, _SHAKEN * tolerance) for x in inputs))
    except Exception:  # whatever the network's code raises for rows that it does not take
        return False
    wanted = [(len(inputs[0]), *x.shape[1:]) for x in like]
    if any([x.shape for x in found] != wanted for found in (outputs, shaken)):
        return False
    return all(
        np.isfinite(a).all() and np.isfinite(b).all() and _distance(a, b) <= _MOVED * tolerance
        for a, b in zip(outputs, shaken, strict=True)
    )


def _shaken(x: Array, share: float) -> Array:
    if not np.issubdtype(x.dtype, np.floating) or _is_mask(x):
        return x
    noise: npt.NDArray[np.float64] = np.random.default_rng(_SEED).uniform(-share, share, x.shape)
    shaken: Array = (x * (1.0 + noise) + noise * 1e-3).astype(x.dtype)
    if _has_steps(x):  # of which those of zeros are padding
        padded: npt.NDArray[np.bool_] = ~np.any(x, axis=2) & np.any(x, axis=(1, 2), keepdims=True)[..., 0]
        shaken[padded] = 0.0
    return shaken


def _distance(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0)))
