"""Mixing: whether rows of a batch influence one another, and which may be one batch all the same."""

import time
from typing import Literal

import numpy as np
import torch

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes import Runtime
from mcdropout.engine.runtimes.tensors import to_array
from mcdropout.engine.verify import EVAL_TOLERANCE, PROGRAM_TOLERANCE, close, each_alone, run_pairs, telling_masks

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
    longest. Each row then has an answer of its own when it is run alone. Where eval mode mixes rows too, none has, and
    the checks will say so.
    """
    rows = len(inputs[0])
    for masks in telling_masks(source, rows):
        together = run_pairs(eager, inputs, masks)
        try:
            alone = each_alone(eager, source, inputs, masks)
        except UnsupportedModelError:  # a row takes less of its masks than beside longer ones
            break
        if not close("", alone, together, PROGRAM_TOLERANCE).passed:
            break
    else:
        return None
    tensors = [torch.from_numpy(x) for x in inputs]
    single = [network.eval_outputs([x[row : row + 1] for x in tensors]) for row in range(rows)]
    apart = tuple(to_array(torch.cat(outputs)) for outputs in zip(*single, strict=True))
    beside = tuple(map(to_array, network.eval_outputs(tensors)))
    return "under masks" if close("", apart, beside, EVAL_TOLERANCE).passed else "always"


def passes_in_a_batch(network: Network, source: MaskSource, inputs: tuple[Array, ...]) -> int:
    """How many passes of one row, and any fewer, answer in one batch as each alone; 1 where that is not worth it.

    They do so where rows are sorted, as long as equal ones stay in their order.
    """
    most: int = _IN_A_BATCH[-1]
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
