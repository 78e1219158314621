"""Unpadding: what is random in a network that takes padding out, shown by examples that have none."""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import OneRowError, UnevenRowsError, UnsupportedModelError
from mcdropout.engine.kinds import DROPCONNECT
from mcdropout.engine.pytorch.find.apart import discover_apart, padding_of
from mcdropout.engine.pytorch.find.discovery import Discovery, discover
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.selection import Selection
from mcdropout.engine.sites import Site
from mcdropout.engine.trials import unpadded


def discover_in_examples(
    module: nn.Module,
    arrays: tuple[Array, ...],
    signature: Signature,
    selection: Selection | None,
    given: Sequence[list[int]],
) -> tuple[Discovery, tuple[Array, ...], UnevenRowsError | None]:
    """What is random in a network, the examples that show it, and why those that were given do not.

    Where it takes padding out, or rows, they have none. `given` are the shapes of the examples as they were given.
    """

    def look(rows: tuple[Array, ...]) -> Discovery:
        return discover(module, [torch.from_numpy(x) for x in rows], signature, selection, given)

    refused: UnevenRowsError | None = None
    found: list[tuple[Discovery, tuple[Array, ...]]] = []
    try:
        found.append((look(arrays), arrays))
        if not any(map(_may_be_of_rows, found[0][0].network.sites)):
            return (*found[0], None)
    except OneRowError:
        return (*discover_apart(module, arrays, signature, selection, one_by_one=True), None)
    except UnevenRowsError as error:
        refused = error
    for rows in unpadded(arrays, padding_of(module)):
        with suppress(UnsupportedModelError):
            found.append((look(rows), rows))
    with suppress(UnsupportedModelError):
        found.append(discover_apart(module, arrays, signature, selection))
    if not found:
        assert refused is not None
        with suppress(UnsupportedModelError):
            return (*discover_apart(module, arrays, signature, selection, one_by_one=True), refused)
        raise refused
    return (*max(found, key=lambda each: _drawn(each[0])), refused)


def _may_be_of_rows(site: Site) -> bool:
    """Whether a dropout that all rows seem to share may be of some of the example rows alone."""
    return site.scope == "pass" and site.kind != DROPCONNECT and len(site.mask_shape) > 1 and not site.raw


def _drawn(found: Discovery) -> tuple[int, int]:
    """How many of its sites draw for each row, and how many numbers."""
    sites = found.network.sites
    return sum(site.scope == "row" for site in sites), sum(math.prod(site.mask_shape) for site in sites)
