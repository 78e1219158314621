"""Unpadding: what is random in a network that takes padding out, shown by examples that have none."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import OneRowError, UnevenRowsError, UnsupportedModelError
from mcdropout.engine.kinds import DROPCONNECT
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.apart import discover_apart, padding_of
from mcdropout.engine.pytorch.find.discovery import Discovery, discover
from mcdropout.engine.pytorch.looks import Looks
from mcdropout.engine.pytorch.network import Network
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
    paddings: list[float] = [padding_of(module)]
    found: list[tuple[Discovery, tuple[Array, ...]]] = []
    try:
        found.append((look(arrays), arrays))
        network = found[0][0].network
        paddings = _paddings(network, arrays)
        if not any(map(_may_be_of_rows, network.sites)) and not _draws_more(network, arrays, paddings):
            return (*found[0], None)
    except OneRowError:
        return (*discover_apart(module, arrays, signature, selection, one_by_one=True), None)
    except UnevenRowsError as error:
        refused = error
    for rows in _unpadded(arrays, paddings):
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


def _paddings(network: Network, arrays: tuple[Array, ...]) -> list[float]:
    """What may stand behind the last of a row: what layers take for it, and what its own code compares with."""
    tensors = [torch.from_numpy(x.copy()) for x in arrays]
    masks = MaskSource(network.sites).keep_everything(len(arrays[0]))
    looks = Looks(tensors)
    with suppress(Exception), looks:  # what was compiled does not run in a mode that it was not compiled in
        network.run(tensors, [torch.from_numpy(mask) for mask in masks])
    return list(dict.fromkeys([padding_of(network.origin), *looks.compared]))


def _unpadded(arrays: tuple[Array, ...], paddings: Sequence[float]) -> Iterator[tuple[Array, ...]]:
    """Examples that have no padding, each once."""
    seen = [arrays]
    for rows in (rows for padding in paddings for rows in unpadded(arrays, padding)):
        if not any(all(map(np.array_equal, rows, others)) for others in seen):
            seen.append(rows)
            yield rows


def _draws_more(network: Network, arrays: tuple[Array, ...], paddings: Sequence[float]) -> bool:
    """Whether it draws more for examples that have no padding: it cuts all rows to a length that the longest gives."""
    for rows in _unpadded(arrays, paddings):
        tensors = [torch.from_numpy(x) for x in rows]
        with suppress(Exception):  # whatever the network raises of such rows, which are not the user's
            sites = network.sites_like(tensors, [x[:-1] for x in tensors])
            if any(
                math.prod(a.mask_shape) > math.prod(b.mask_shape) for a, b in zip(sites, network.sites, strict=True)
            ):
                return True
    return False


def _may_be_of_rows(site: Site) -> bool:
    """Whether a dropout that all rows seem to share may be of some of the example rows alone."""
    return site.scope == "pass" and site.kind != DROPCONNECT and len(site.mask_shape) > 1 and not site.raw


def _drawn(found: Discovery) -> tuple[int, int]:
    """How many of its sites draw for each row, and how many numbers."""
    sites = found.network.sites
    return sum(site.scope == "row" for site in sites), sum(math.prod(site.mask_shape) for site in sites)
