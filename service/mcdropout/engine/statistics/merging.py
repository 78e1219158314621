"""Merging: mixtures of many components into mixtures of few, for many mixtures at once.

Components are points, `[means]`, or Gaussians, `[means, variances]`, each `[mixtures, components]`. Their weights are
whole numbers of passes, the same in all mixtures. Merged Gaussians have the mean and the variance that they had
together.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.statistics.block import Floats

Counts = npt.NDArray[np.int64]

_FRACTION = 2.0**10  # of a pass: levels are rounded to it, so that sums of weights are exact


@cache
def parts_of(passes: int, count: int) -> Counts:
    """So many passes in an even number of parts, at most half as many, of 1 pass at least each: `[count]`.

    Their ends are those of equal steps along a half circle, as in a t-digest (T. Dunning 2021, "The t-digest: efficient
    estimates of distributions"), so that parts are small where quantiles are asked for.
    """
    steps = np.arange(count // 2 + 1)
    ends = np.rint(passes * (1.0 - np.cos(np.pi * steps / count)) / 2.0).astype(np.int64)
    sizes = np.diff(np.maximum(ends, steps))
    first = np.concatenate([sizes, sizes[::-1]])
    first[count // 2] += passes - first.sum()  # an odd one more
    return first


def pooled(parts: Sequence[Floats], into: Counts, *, spread: bool = False) -> list[Floats]:
    """Components of equal weight, merged into parts of so many neighbours, `[merged]`, each.

    Args:
        parts: the components.
        into: of how many each merged one is made.
        spread: whether points become Gaussians.
    """
    starts = np.cumsum(into) - into

    def means_of(numbers: Floats) -> Floats:
        means: Floats = np.add.reduceat(numbers, starts, axis=1)
        means /= into
        return means

    found, _ = _sorted(parts)
    return _moments(found, spread, means_of)


def merged(parts: Sequence[Floats], weights: Counts, into: Counts, *, spread: bool = False) -> list[Floats]:
    """Components of weights `[components]`, merged into components of other weights `[merged]`, of the same sum.

    Sorted, they lie one behind another along an axis of weight, as do all mixtures; that is cut where the weights of
    the merged ones end, through a component where it has to be. Marks and cuts are whole numbers, whose sums are exact,
    so that no mixture's result depends on those beside it.
    """
    found, order = _sorted(parts, ordered=True)
    laid = weights[order].astype(np.float64)
    starts = _starts(len(laid), int(into.sum()))
    marks = (_summed(laid) + starts).ravel()
    cuts = np.concatenate([[0], np.cumsum(into)]) + starts

    def means_of(numbers: Floats) -> Floats:
        sums = np.interp(cuts.ravel(), marks, _summed(numbers * laid).ravel()).reshape(cuts.shape)
        return (sums[:, 1:] - sums[:, :-1]) / into

    return _moments(found, spread, means_of)


def weighted_quantiles(points: Floats, weights: Counts, levels: Sequence[float]) -> Floats:
    """Quantiles of mixtures of points, `[mixtures, levels]`: the smallest that a share does not exceed, where none is
    merged. A merged one lies in the middle of its share, and between those middles quantiles lie on a straight line."""
    total = int(weights.sum())
    if total == len(weights):
        return quantiles_of_points(points, levels)
    order = np.argsort(points, axis=1)
    laid, starts = weights[order].astype(np.float64), _starts(len(points), total)
    middles = np.cumsum(laid, axis=1) - 0.5 * laid + starts
    wanted = np.rint(np.multiply(levels, total * _FRACTION)) / _FRACTION + starts
    values = np.take_along_axis(points, order, axis=1)
    return np.interp(wanted.ravel(), middles.ravel(), values.ravel()).reshape(wanted.shape)


def quantiles_of_points(points: Floats, levels: Sequence[float]) -> Floats:
    """The same of points `[mixtures, points]` of equal weight."""
    count = points.shape[1]
    places = [max(0, math.ceil(level * count - 1e-9) - 1) for level in levels]
    return np.sort(points, axis=1)[:, places].astype(np.float64, copy=False)


def _sorted(parts: Sequence[Floats], *, ordered: bool = False) -> tuple[list[Floats], Any]:
    """Components by mean plus deviation, and their order, where it is wanted or differs from that of the means.

    Where means are nearly the same and deviations are not, neighbours so have similar deviations.
    """
    if len(parts) == 1 and not ordered:
        return [_wide(np.sort(parts[0], axis=1))], None
    order = np.argsort(parts[0] if ordered or len(parts) == 1 else parts[0] + np.sqrt(parts[1]), axis=1)
    return [_wide(np.take_along_axis(part, order, axis=1)) for part in parts], order


def _wide(numbers: Floats) -> Floats:
    return numbers.astype(np.float64, copy=False)


def _moments(found: list[Floats], spread: bool, means_of: Callable[[Floats], Floats]) -> list[Floats]:
    """Merged components, where `means_of` finds the mean in each of numbers that components have."""
    centre = found[0][:, found[0].shape[1] // 2, None].copy()  # sums of squares of what is left lose no digits
    means = found[0]
    means -= centre
    mean = means_of(means)
    if len(found) == 1 and not spread:
        mean += centre
        return [mean]
    squares: Floats = np.square(means)
    if len(found) > 1:
        squares += found[1]
    variance = np.maximum(means_of(squares) - np.square(mean), 0.0)
    return [mean + centre, variance]


def _starts(mixtures: int, total: int) -> Floats:
    """Where mixtures of a weight begin, one behind another."""
    return np.arange(0.0, 2.0 * total * mixtures, 2.0 * total)[:, None]


def _summed(numbers: Floats) -> Floats:
    """The sum of the first 0, 1, ... of numbers `[mixtures, components]`."""
    sums = np.zeros((len(numbers), numbers.shape[1] + 1))
    np.cumsum(numbers, axis=1, out=sums[:, 1:])
    return sums
