"""What a user would write: the network with its dropout on, one pass after another, or once for a repeated batch.

It knows nothing of the engine. Dropout is what train mode switches on, in modules and in functions alike, so the
network is put in train mode, and its normalization layers, which train mode would move, back in eval mode.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.networks.case import Case, Given, mapped


def dropping(network: nn.Module) -> nn.Module:
    """A copy in train mode, its normalization layers in eval mode."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, _NormBase):
            module.eval()
    return network


@torch.no_grad()
def once(case: Case, network: nn.Module, given: Given) -> Tensor:
    """One pass: class probabilities, or the predicted values, `[rows, ...]`.

    Without gradients but not in inference mode, whose tensors no network may keep for a later pass.
    """
    if isinstance(given, dict):
        returned = network(**given)
    else:
        returned = network(*given) if isinstance(given, tuple) else network(given)
    return _read(case, returned)


def loop(case: Case, network: nn.Module, given: Given, passes: int) -> Tensor:
    """Pass after pass, `[passes, rows, ...]`."""
    return torch.stack([once(case, network, given) for _ in range(passes)])


def repeated(case: Case, network: nn.Module, given: Given, passes: int) -> Tensor:
    """All passes in one batch, in which every row stands `passes` times, `[passes, rows, ...]`."""
    answers = once(case, network, mapped(lambda x: x.repeat_interleave(passes, 0), given))
    return answers.unflatten(0, (-1, passes)).transpose(0, 1)


def moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over passes."""
    return samples.mean(0), samples.var(0)


def _read(case: Case, returned: Any) -> Tensor:
    value = returned if case.outputs is None else returned[case.outputs]
    if isinstance(value, tuple):  # the mean, and its noise
        value = value[0]
    if case.task == "regression" or case.options.get("form") == "probabilities":
        return value
    return value.softmax(case.axis) if case.task == "classification" else value.sigmoid()
