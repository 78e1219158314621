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


@torch.no_grad()
def as_if_trained(network: nn.Module, given: Given) -> None:
    """Leave a new network in a state in which its answers depend on its inputs and its dropout; then in eval mode.

    Layers that begin at 0 (heads, scales of branches) are drawn, and normalization layers learn the inputs' statistics.
    """
    for parameter in network.parameters():
        if parameter.numel() > 1 and not parameter.std() > 0:
            parameter.add_(0.2 * torch.randn_like(parameter))
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if norms:
        network.eval()
        momentum = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = None  # an average of all that it sees
            norm.reset_running_stats()
        for _ in range(2):
            returned_by(network, given)
        for norm, own in zip(norms, momentum, strict=True):
            norm.momentum = own
    network.eval()


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
    return _read(case, returned_by(network, given))


def returned_by(network: nn.Module, given: Given) -> Any:
    """All that a network returns."""
    if isinstance(given, dict):
        return network(**given)
    return network(*given) if isinstance(given, tuple) else network(given)


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
