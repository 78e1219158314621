"""Apart: what is random in a network that does not do the same for each of its rows, or does it for one at a time."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import Discovery, discover
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.selection import Selection
from mcdropout.engine.sites import Site
from mcdropout.engine.trials import alike, varied

_MOST_ROWS, _MOST_WAYS, _MOST_FAILURES = 16, 64, 8


def discover_apart(
    module: nn.Module,
    arrays: tuple[Array, ...],
    signature: Signature,
    selection: Selection | None,
    *,
    one_by_one: bool = False,
) -> tuple[Discovery, tuple[Array, ...]]:
    """What is random for some rows or for others, which go different ways, as through different experts.

    Each row is looked at among rows that are much like it, or, where `one_by_one`, all alone, and others than the
    examples too, as long as they show something new.

    Raises:
        UnsupportedModelError: no row can be looked at by itself; why the first can not.
    """
    padding = padding_of(module)
    found: list[Discovery] = []
    together: tuple[Discovery, tuple[Array, ...]] | None = None  # and the rows that showed the first of them
    failures: list[UnsupportedModelError] = []
    few = tuple(x[:_MOST_ROWS] for x in arrays)
    for rows in (rows for each in (few, *(v.inputs for v in varied(few, padding))) for rows in alike(each)):
        if len(found) == _MOST_WAYS or (together and _answers(together[0].network, rows)):
            continue
        if len(failures) == _MOST_FAILURES and not found:  # so do all, almost surely, and looking takes long
            break
        try:
            seen = discover(module, [torch.from_numpy(x) for x in rows], signature, selection, one_by_one=one_by_one)
        except UnsupportedModelError as error:
            failures.append(error)
            continue
        # Other rows may have less left out than these, unless it is always all of a row or nothing.
        if all(site.rows_per_row == 1 for site in seen.network.sites):
            found.append(seen)
            together = _joined(found), together[1] if together else rows
    if together is None:
        if failures:
            raise failures[0]
        raise UnsupportedModelError("what the network draws for a row is part of what it draws for others")
    return together


def _answers(network: Network, rows: tuple[Array, ...]) -> bool:
    """Whether a network has masks for all that it draws for the first of some rows."""
    masks = MaskSource(network.sites).keep_everything(1)
    alone, network.alone = network.alone, True
    try:
        network.run([torch.from_numpy(x[:1]) for x in rows], [torch.from_numpy(mask) for mask in masks])
    except UnsupportedModelError:
        return False
    except Exception:  # rows that it does not take
        return True
    finally:
        network.alone = alone
    return True


def _joined(found: Sequence[Discovery]) -> Discovery:
    sites: dict[tuple[str, int], Site] = {}
    for site in (site for each in found for site in each.network.sites):
        known = sites.setdefault((site.path, site.call), site)
        if site.one_by_one and len(site.shape) == len(known.shape):  # some rows draw more than others
            sites[site.path, site.call] = replace(site, shape=tuple(map(max, site.shape, known.shape)))
    off = {(site.path, site.call): site for each in found for site in each.off}
    network = Network.joined([each.network for each in found], sites.values())
    return Discovery(network, tuple(site for key, site in off.items() if key not in sites))


def padding_of(module: nn.Module) -> int:
    """The token that a network has its padding made of; 0 where it does not say."""
    known = (part.padding_idx for part in module.modules() if isinstance(part, nn.Embedding))
    return next((index for index in known if index is not None), 0)
