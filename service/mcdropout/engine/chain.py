"""Chains: suffixes that are linear layers behind ReLU and dropout, which the native runtime runs without multiplying by
zero."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcdropout.engine.native.chains import PANEL

# Above this density a dense product is faster. Measured on two cores of AMD Zen 3, 400 pairs, layers of 1024: a sparse
# one takes half the time of ONNX Runtime's at a density of 0.25, and as long at 0.5 to 0.6.
_MOST_DENSE = 0.5
# Below so many multiply-adds a pair, what a call costs before its first one decides, and ONNX Runtime is as good.
_FEWEST_MULTIPLY_ADDS = 100_000


@dataclass(frozen=True)
class Layer:
    """`weight @ (act(x) * mask) + bias`.

    Attributes:
        weight: `[outputs, inputs]`.
        bias: `[outputs]`, or None.
        relu: whether `act` is a ReLU; otherwise it is nothing.
        mask: which of the program's masks; None where there is none.
        density: the share of inputs that are expected not to be zero.
        weight_name, bias_name: the tensors of the suffix that hold them.
        transposed: whether the suffix holds the weight as `[inputs, outputs]`.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    relu: bool
    mask: int | None
    density: float
    weight_name: str
    bias_name: str | None
    transposed: bool


@dataclass(frozen=True)
class Chain:
    """A suffix that is layers, one after another.

    Attributes:
        layers: in order.
        input: which of the network's inputs the first layer takes; None where a prefix computes what it takes.
    """

    layers: tuple[Layer, ...]
    input: int | None

    @property
    def names(self) -> frozenset[str]:
        """The tensors of the suffix that hold its numbers."""
        return frozenset(
            name for layer in self.layers for name in (layer.weight_name, layer.bias_name) if name is not None
        )

    @property
    def worthwhile(self) -> bool:
        """Whether it is expected to run faster than a dense program; a rule, so that a network always runs the same."""
        dense = sum(layer.weight.size for layer in self.layers)
        sparse = sum(
            layer.density * layer.weight.shape[1] * _rounded_up(layer.weight.shape[0], PANEL) for layer in self.layers
        )
        return dense >= _FEWEST_MULTIPLY_ADDS and sparse <= _MOST_DENSE * dense


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
