"""Mixing: whether rows of a batch influence one another, and which may be one batch all the same."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.fan import Fan
from mcdropout.engine.pytorch.looks import Looks
from mcdropout.engine.pytorch.meetings import MOST_ROWS, are_near, rows_meet
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes import Runtime
from mcdropout.engine.runtimes.tensors import to_array
from mcdropout.engine.trials import alike
from mcdropout.engine.verify import (
    EVAL_TOLERANCE,
    PROGRAM_TOLERANCE,
    close,
    dropping_often,
    each_alone,
    run_pairs,
    telling_masks,
)

_IN_A_BATCH = (*range(2, 18), 24, 33, 48, 64)  # around these, sorts of so many equal numbers change their ways
_FEWEST = 8
_MOST_SECONDS = 0.1  # for one batch, for a larger one to be tried


def scales_by_batch(network: Network) -> bool:
    """Whether layers quantize what they are given by its extremes, so that a row changes with those beside it."""
    return any(type(part).__module__.startswith("torch.ao.nn.quantized.dynamic") for part in network.module.modules())


def rows_mix(
    network: Network, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]
) -> Literal["always", "under masks"] | None:
    """When a row's outputs change with the rows beside it.

    Under masks they do where a dropout is scaled by what it left of the whole batch, or where rows are cut to the
    longest; those of a network that drops for each by itself count as such. Each row then has an answer of its own when
    it is run alone. Where eval mode mixes rows too, none has, and the checks will say so.
    """
    if not network.one_by_one and _as_alone_under_masks(eager, source, inputs):
        return None
    try:
        return "under masks" if _as_alone_with_nothing_dropped(network, inputs) else "always"
    except Exception:  # it takes one row at a time, which none is beside
        if not network.one_by_one:
            raise
        return "under masks"


def alike_do_not_mix(network: Network, inputs: tuple[Array, ...], fixed: Sequence[float]) -> bool:
    """Whether rows that are much like one another are answered as each alone, with nothing dropped.

    Those of a network that cuts all to the longest are, and those of one that takes the mean over its rows are not.
    What is `fixed` they have in the same places, as it may be padding.
    """
    return all(_as_alone_with_nothing_dropped(network, rows) for rows in alike(inputs, fixed))


def _as_alone_with_nothing_dropped(network: Network, inputs: tuple[Array, ...]) -> bool:
    tensors = [torch.from_numpy(x) for x in inputs]
    single = [network.eval_outputs([x[row : row + 1] for x in tensors]) for row in range(len(inputs[0]))]
    apart = tuple(to_array(torch.cat(outputs)) for outputs in zip(*single, strict=True))
    beside = tuple(map(to_array, network.eval_outputs(tensors, together=True)))
    return close("", apart, beside, EVAL_TOLERANCE).passed


def _as_alone_under_masks(eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> bool:
    for masks in telling_masks(source, len(inputs[0])):
        together = run_pairs(eager, inputs, masks)
        try:
            alone = each_alone(eager, source, inputs, masks)
        except UnsupportedModelError:  # a row takes less of its masks than beside longer ones
            return False
        if not close("", alone, together, PROGRAM_TOLERANCE).passed:
            return False
    return True


def look(network: Network, inputs: tuple[Array, ...], masks: Sequence[Array]) -> Looks:
    """What of all its rows a network's own code goes by, as far as it shows. Arguments as for `run_pairs`."""
    placed = [torch.from_numpy(mask) for mask in masks]

    def seen(**changed: bool) -> tuple[Looks, tuple[Array, ...] | None]:
        copies = [torch.from_numpy(x.copy()) for x in inputs]
        looks, outputs = Looks(copies, **changed), None
        with suppress(Exception), looks:  # what was compiled does not run in a mode that it was not compiled in
            outputs = network.run(copies, placed)
        return looks, None if outputs is None else tuple(map(to_array, outputs))

    def same(some: tuple[Array, ...] | None, others: tuple[Array, ...] | None, tolerance: float = 0.0) -> bool | None:
        if some is None or others is None:
            return None
        return all(are_near(a, b, tolerance) for a, b in zip(some, others, strict=True))

    looks, wanted = seen()
    if looks.numbers and not looks.taken:
        looks.taken = not same(wanted, seen(others=True)[1])
    if looks.unpacked and not looks.taken:
        short, cut = seen(cut=True)
        pairs = ((cut, seen(cut=True, longer=True)[1]), (wanted, seen(longer=True)[1]))
        answered = {same(*pair, EVAL_TOLERANCE) for pair in pairs}
        looks.taken = short.unpacked and answered - {None} != {True}
    if not looks.taken:
        few = [
            mask if site.scope == "pass" else mask[:MOST_ROWS] for site, mask in zip(network.sites, placed, strict=True)
        ]
        examples = [torch.from_numpy(x) for x in inputs]
        looks.taken = any(
            # In eval mode there are no masks, which need not fit what is cut otherwise.
            rows_meet(run, examples, EVAL_TOLERANCE)
            for run in (lambda x: network.run(x, few), network.in_eval())
        )
    return looks


def batch_passes(network: Network, source: MaskSource, inputs: tuple[Array, ...]) -> None:
    """Run passes of one row in one batch from now on, if they answer there as each does alone."""
    possible: list[Fan | None] = [None]
    if network.one_by_one:
        try:
            possible = list(network.fans([torch.from_numpy(x) for x in inputs]))
        except Exception:  # whatever the network raises of several rows
            possible = []
    for fan in possible:
        network.fan = fan
        network.repeats = _passes_in_a_batch(network, source, inputs)
        if network.repeats > 1:
            return
    network.fan = None


def _passes_in_a_batch(network: Network, source: MaskSource, inputs: tuple[Array, ...]) -> int:
    """How many passes of one row, and any fewer, answer in one batch as each alone; 1 where that is not worth it.

    They do so where rows are sorted, as long as equal ones stay in their order.
    """
    most: int = _IN_A_BATCH[-1]
    source = dropping_often(source)
    for row, x in enumerate(zip(*inputs, strict=True)):
        repeated = [torch.from_numpy(np.stack([value] * most)) for value in x]
        masks = [torch.from_numpy(mask) for mask in source.draw([row], [row], 0, most)]
        alone: list[tuple[Array, ...]] = []
        held = 1
        try:
            for passes in (size for size in _IN_A_BATCH if size <= most):
                start = time.perf_counter()
                together = network.run_as_one([x[:passes] for x in repeated], [mask[:passes] for mask in masks])
                taken = time.perf_counter() - start
                for each in range(len(alone), passes):
                    part = slice(each, each + 1)
                    found = network.run([x[part] for x in repeated], [mask[part] for mask in masks])
                    alone.append(tuple(map(to_array, found)))
                wanted = tuple(map(np.concatenate, zip(*alone, strict=True)))
                if not close("", tuple(map(to_array, together)), wanted, PROGRAM_TOLERANCE).passed:
                    break
                held = passes
                if taken > _MOST_SECONDS:
                    break
        except Exception:  # whatever the network raises: each is run alone
            return 1
        most = held
        if most < _FEWEST:
            return 1
    return most
