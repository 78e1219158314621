"""Unpadding: what is random in a network that takes padding out, shown by examples that have none."""

import math
from contextlib import suppress

import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnevenRowsError, UnsupportedModelError
from mcdropout.engine.kinds import DROPCONNECT
from mcdropout.engine.pytorch.find.discovery import Discovery, discover
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.selection import Selection
from mcdropout.engine.sites import Site
from mcdropout.engine.trials import alike, unpadded


def discover_in_examples(
    module: nn.Module, arrays: tuple[Array, ...], signature: Signature, selection: Selection | None
) -> tuple[Discovery, tuple[Array, ...], UnevenRowsError | None]:
    """What is random in a network, the examples that show it, and why those that were given do not.

    Where it takes padding out, or rows, they have none.
    """

    def look(rows: tuple[Array, ...]) -> Discovery:
        return discover(module, [torch.from_numpy(x) for x in rows], signature, selection)

    refused: UnevenRowsError | None = None
    found: list[tuple[Discovery, tuple[Array, ...]]] = []
    try:
        found.append((look(arrays), arrays))
        if not any(map(_may_be_of_rows, found[0][0].network.sites)):
            return (*found[0], None)
    except UnevenRowsError as error:
        refused = error
    for rows in unpadded(arrays, padding_of(module)):
        with suppress(UnsupportedModelError):
            found.append((look(rows), rows))
    for rows in alike(arrays):
        with suppress(UnsupportedModelError):
            seen = look(rows)
            # Other rows may have less left out than these, unless it is always all of a row or nothing.
            if all(site.rows_per_row == 1 for site in seen.network.sites):
                found.append((seen, rows))
    if not found:
        assert refused is not None
        raise refused
    return (*max(found, key=lambda each: _drawn(each[0])), refused)


def _may_be_of_rows(site: Site) -> bool:
    """Whether a dropout that all rows seem to share may be of some of the example rows alone."""
    return site.scope == "pass" and site.kind != DROPCONNECT and len(site.mask_shape) > 1 and not site.raw


def _drawn(found: Discovery) -> tuple[int, int]:
    """How many of its sites draw for each row, and how many numbers."""
    sites = found.network.sites
    return sum(site.scope == "row" for site in sites), sum(math.prod(site.mask_shape) for site in sites)


def padding_of(module: nn.Module) -> int:
    """The token that a network has its padding made of; 0 where it does not say."""
    known = (part.padding_idx for part in module.modules() if isinstance(part, nn.Embedding))
    return next((index for index in known if index is not None), 0)
