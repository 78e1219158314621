"""Masks for people: which units some passes keep, of wide sites a part of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.sites import Site

if TYPE_CHECKING:
    from mcdropout.engine.engine import Engine

MOST_NUMBERS = 2**24
"""How many numbers, of all sites, the passes that are asked for may draw together."""
MOST_SHOWN = 2**18
"""How many numbers are shown at most, of all sites and passes."""
_AT_ONCE = 2**20


@dataclass(frozen=True)
class SiteMasks:
    """What some passes drew at a site.

    Attributes:
        site: which.
        shown: `[shown]`, the units that `masks` tells of, as indices into the site's shape laid out flat: all, or as
            many as were asked for, at even distances.
        kept: `[passes]`, how many of all its units each pass kept; None where it draws numbers of the network's own.
        masks: `[passes, shown]`, 1 where the unit is kept and 0 where it is dropped; or those numbers.
    """

    site: Site
    shown: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64] | None
    masks: npt.NDArray[np.float32]


def shown_masks(engine: "Engine", seed: int, row: int, first: int, passes: int, units: int) -> list[SiteMasks]:
    """What passes `first` to `first + passes` of row `row` of a request with this seed draw, for each site.

    Args:
        engine: whose sites; of one size, where sizes may differ.
        seed: the request's.
        row: the row's index in it.
        first: the first pass, from 0.
        passes: how many.
        units: the most that are shown of a site.

    Raises:
        InvalidInputError: that would be too many numbers.
    """
    drawn = sum(site.units for site in engine.sites)
    told = sum(min(site.units, units) for site in engine.sites)
    if told * passes > MOST_SHOWN:
        raise InvalidInputError(
            f"passes is {passes}, and units is {units}, so that each shows {told} numbers; at most "
            f"{max(1, MOST_SHOWN // told)} passes, or fewer units, are accepted at once"
        )
    if drawn * passes > MOST_NUMBERS:
        raise InvalidInputError(
            f"passes is {passes}, and each draws {drawn} numbers; at most {max(1, MOST_NUMBERS // drawn)} is accepted "
            "at once"
        )
    shown = [_spread(site.units, units) for site in engine.sites]
    masks: list[list[npt.NDArray[Any]]] = [[] for _ in engine.sites]
    kept: list[list[npt.NDArray[Any]]] = [[] for _ in engine.sites]
    step = max(1, _AT_ONCE // max(1, drawn)) if engine.shares_rows else 1
    for start in range(first, first + passes, step):
        count = min(step, first + passes - start)
        for index, (site, mask) in enumerate(zip(engine.sites, engine.masks(seed, row, start, count), strict=True)):
            numbers = _numbers(site, mask, count)
            masks[index].append(numbers[:, shown[index]].astype(np.float32))
            kept[index].append(np.count_nonzero(numbers, axis=1))
    return [
        SiteMasks(
            site,
            which,
            None if site.p is None else np.concatenate(count),
            np.ascontiguousarray(np.concatenate(numbers)),
        )
        for site, which, count, numbers in zip(engine.sites, shown, kept, masks, strict=True)
    ]


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `count` indices, at even distances."""
    taken = min(count, most)
    return np.arange(taken, dtype=np.int64) * count // max(1, taken)


def _numbers(site: Site, mask: npt.NDArray[np.float32], passes: int) -> npt.NDArray[Any]:
    """`[passes, units]`: whether each is kept, or the number that the network's own code gets."""
    planes = mask.reshape(passes, -1, site.units)
    return planes[:, 0] if site.p is None else planes[:, 0] != site.dropped[0]
