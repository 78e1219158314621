"""Small networks that the tests of the engine run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Custom(nn.Module):
    """A network of the given parts, whose forward pass is the given function `(network, x)`."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self._run(self, *inputs)


def mlp(p: float = 0.5, inputs: int = 4, hidden: int = 16, outputs: int = 3) -> nn.Sequential:
    """A classifier of `[rows, inputs]` with dropout on its hidden layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(p), nn.Linear(hidden, outputs))


def many_sites() -> nn.Sequential:
    """A classifier of `[rows, 6]` with sites of 1, 8 and 16 bits a unit, and one whose masks hold a summand."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 20),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(20, 20),
        nn.SELU(),
        nn.AlphaDropout(0.1),
        nn.Linear(20, 12),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(12, 4),
    )


def conv_net() -> nn.Sequential:
    """A classifier of `[rows, 1, 6, 6]`: a convolution with a batch norm that has seen data, dropout before the end."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 3),
    )
    with torch.no_grad():
        network.train()(torch.rand(32, 1, 6, 6))
    return network


def drop_connect() -> Custom:
    """A classifier of `[rows, 4]` with dropout on a weight: one mask serves all rows of a pass."""
    torch.manual_seed(3)

    def forward(network: Any, x: Tensor) -> Tensor:
        weight = nn.functional.dropout(network.linear.weight, 0.25, network.training)
        return nn.functional.linear(x, weight, network.linear.bias)

    return Custom(forward, linear=nn.Linear(4, 3))


def centred(network: nn.Module) -> Custom:
    """`network` behind a layer through which rows influence one another."""
    return Custom(lambda self, x: self.rest(x - x.mean(0)), rest=network)


def drop_path(p: float) -> Custom:
    """Stochastic depth as networks write it themselves: a uniform number a row, drawn in train mode only."""

    def forward(network: Any, x: Tensor) -> Tensor:
        if not network.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1)) + (1 - p)
        return x * keep.floor() / (1 - p)

    return Custom(forward)
