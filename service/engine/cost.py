"""Cost: how many floating-point operations run once a row, and how many once a pass."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from service.engine.masks import MaskSource
from service.engine.network import Network
from service.engine.program import EXAMPLE_PAIRS, EXAMPLE_ROWS, Split, example_masks


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of products, convolutions and attention, which is where the time goes.

    Attributes:
        prefix: of what runs once a row.
        suffix: of what runs once for each pass of a row.
    """

    prefix: int
    suffix: int

    @property
    def share_once(self) -> float:
        """The share of one forward pass that runs once a row, 0 to 1; 0 where nothing is counted."""
        return self.prefix / (self.prefix + self.suffix) if self.prefix + self.suffix else 0.0

    def in_deterministic_passes(self, passes: int) -> float:
        """What so many passes cost, in forward passes of the whole network."""
        return self.share_once + passes * (1.0 - self.share_once)


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
    prefix = counter.get_total_flops() if split.has_prefix else 0
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


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Counts, with recurrent layers taken apart: the fused ones of the CPU are not known to the counter."""
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oneDNN tells of Intel's GPUs when its settings are touched
        with torch.backends.mkldnn.flags(enabled=False), counter:
            yield counter
