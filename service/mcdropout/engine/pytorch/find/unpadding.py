"""Unpadding: what is random in a network that takes padding out, shown by examples that have none."""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnevenRowsError, UnsupportedModelError
from mcdropout.engine.kinds import DROPCONNECT
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import Discovery, discover
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.selection import Selection
from mcdropout.engine.sites import Site
from mcdropout.engine.trials import alike, unpadded, varied

_MOST_ROWS, _MOST_WAYS = 16, 64


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
    except UnevenRowsError as error:
        refused = error
    for rows in unpadded(arrays, padding_of(module)):
        with suppress(UnsupportedModelError):
            found.append((look(rows), rows))
    with suppress(UnsupportedModelError):
        found.append(discover_apart(module, arrays, signature, selection))
    if not found:
        assert refused is not None
        raise refused
    return (*max(found, key=lambda each: _drawn(each[0])), refused)


def discover_apart(
    module: nn.Module, arrays: tuple[Array, ...], signature: Signature, selection: Selection | None
) -> tuple[Discovery, tuple[Array, ...]]:
    """What is random for some rows or for others, which go different ways, as through different experts.

    Each row is looked at by itself, and others than the examples too, as long as they show something new.

    Raises:
        UnsupportedModelError: no row can be looked at by itself.
    """
    padding = padding_of(module)
    found: list[Discovery] = []
    together: tuple[Discovery, tuple[Array, ...]] | None = None  # and the rows that showed the first of them
    few = tuple(x[:_MOST_ROWS] for x in arrays)
    for rows in (rows for each in (few, *(v.inputs for v in varied(few, padding))) for rows in alike(each)):
        if len(found) == _MOST_WAYS or (together and _answers(together[0].network, rows)):
            continue
        with suppress(UnsupportedModelError):
            seen = discover(module, [torch.from_numpy(x) for x in rows], signature, selection)
            # Other rows may have less left out than these, unless it is always all of a row or nothing.
            if all(site.rows_per_row == 1 for site in seen.network.sites):
                found.append(seen)
                together = _joined(found), together[1] if together else rows
    if together is None:
        raise UnsupportedModelError("the network draws neither for its rows together nor for each by itself")
    return together


def _answers(network: Network, rows: tuple[Array, ...]) -> bool:
    """Whether a network has masks for all that it draws for the first of some rows."""
    masks = MaskSource(network.sites).keep_everything(1)
    network.alone = True
    try:
        network.run([torch.from_numpy(x[:1]) for x in rows], [torch.from_numpy(mask) for mask in masks])
    except UnsupportedModelError:
        return False
    except Exception:  # rows that it does not take
        return True
    finally:
        network.alone = False
    return True


def _joined(found: Sequence[Discovery]) -> Discovery:
    sites = {(site.path, site.call): site for each in found for site in each.network.sites}
    off = {(site.path, site.call): site for each in found for site in each.off}
    network = Network.joined([each.network for each in found], sites.values())
    return Discovery(network, tuple(site for key, site in off.items() if key not in sites))


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
