"""Cost: how many floating-point operations run once a row, and how many once a pass."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcdropout.engine.masks import MaskSource
from mcdropout.engine.program import Cost
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS, example_masks
from mcdropout.engine.pytorch.cut.split import Split
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.subject import EXAMPLE_ROWS


@torch.no_grad()
def cost_of_split(split: Split, source: MaskSource, examples: tuple[Tensor, ...]) -> Cost:
    """The cost of a network that is cut in two.

    Args:
        split: the program.
        source: draws its masks.
        examples: example inputs, `[EXAMPLE_ROWS, ...]` each.
    """
    with _counting() as counter:
        frontier = split.prefix(*examples)
    prefix = counter.get_total_flops() if split.outline.has_prefix else 0
    rows = torch.arange(EXAMPLE_PAIRS) % EXAMPLE_ROWS
    with _counting() as counter:
        split.suffix(rows, *frontier, *example_masks(source, EXAMPLE_PAIRS))
    return Cost(round(prefix / EXAMPLE_ROWS), round(counter.get_total_flops() / EXAMPLE_PAIRS))


@torch.no_grad()
def cost_of_whole(network: Network, source: MaskSource, examples: tuple[Tensor, ...]) -> Cost:
    """The cost of a network all of which runs once a pass; arguments as for `cost_of_split`."""
    with _counting() as counter:
        network.run(examples, example_masks(source, EXAMPLE_ROWS))
    return Cost(0, round(counter.get_total_flops() / EXAMPLE_ROWS))


class _Whole(nullcontext[None]):
    """In the place of what tells the counter which modules are running: the network as a whole always is."""

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        return None


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Counts, with recurrent layers taken apart: the fused ones of the CPU are not known to the counter."""
    counter = FlopCounterMode(display=False)
    # Of which modules the operations are is not asked; finding out fails where a forward pass finds derivatives.
    counter.mod_tracker = _Whole()  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oneDNN tells of Intel's GPUs when its settings are touched
        with torch.backends.mkldnn.flags(enabled=False), counter:
            yield counter
