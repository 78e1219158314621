"""Operators with a train mode: what saved networks hold where Python code called a function that heeds `self.training`.

Exported and traced networks have forgotten the mode: the operator says "drop" or "drop not", whichever it was when they
were saved. Here each is a function again, of the kind that `RandomCalls` sees, and takes the mode from a module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Dropping:
    """An operator that drops.

    Attributes:
        function: does the same; takes the operator's arguments.
        switch: the position of the argument that turns dropping on.
        p: the position of the probability; that of `switch` where a probability of 0 turns it off.
        layers: the position of the number of layers, for an operator that drops between layers.
    """

    function: Callable[..., Any]
    switch: int
    p: int
    layers: int | None = None

    def drops(self, arguments: Sequence[Any]) -> bool:
        """Whether it ever drops with such arguments, in train mode."""
        return arguments[self.p] != 0 and (self.layers is None or arguments[self.layers] > 1)

    def switched(self, arguments: Sequence[Any], training: bool) -> list[Any]:
        """The arguments, on in train mode alone, whatever they said."""
        value = training if self.p != self.switch else arguments[self.p] if training else 0.0
        return [*arguments[: self.switch], value, *arguments[self.switch + 1 :]]


DROPPING: dict[str, Dropping] = {
    **{
        name: Dropping(getattr(torch, name), 2, 1)
        for name in (
            *("dropout", "dropout_", "native_dropout", "feature_dropout", "feature_dropout_"),
            *("alpha_dropout", "alpha_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_"),
        )
    },
    "scaled_dot_product_attention": Dropping(F.scaled_dot_product_attention, 4, 4),
    **{
        f"{name}.{form}": Dropping(getattr(torch, name), switch, switch - 1, switch - 2)
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for form, switch in (("input", 6), ("data", 7))
    },
}
"""By name, with the overload where there are several."""

STATISTICS = {"batch_norm": (3, 5), "instance_norm": (3, 5)}
"""Operators that use a batch's own statistics in train mode: the positions of the running mean and of the switch."""

NOISE = {"rrelu": 3, "rrelu_with_noise": 4, "rrelu_": 3, "rrelu_with_noise_": 4}
"""Activations that are noisy in train mode, which is not dropout: the position of the switch."""

COUNTED = ("running_mean", "running_var", "num_batches_tracked")
"""What normalization layers keep of batches, which train mode moves."""


def plain_name(name: str) -> str:
    """`dropout` for `aten::dropout` and `aten.dropout.default`, `lstm.input` for `aten::lstm.input`."""
    return name.replace("::", ".").removeprefix("aten.").removesuffix(".default")


def drop(name: str, training: bool, *arguments: Any, **named: Any) -> Any:
    """What the operator of this name in `DROPPING` does, on in train mode alone."""
    dropping = DROPPING[name]
    return dropping.function(*dropping.switched(arguments, training), **named)
