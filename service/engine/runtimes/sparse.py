"""Sparse: the native CPU runtime for chains of masked linear layers, which skips multiplications by zero.

Behind a ReLU and dropout with p = 0.5, three quarters or more of a layer's inputs are zero. A network (or what is left
of it behind its prefix) that is a chain of linear layers, ReLUs and dropout runs through `native.c`, which reads only
the weights of the others. A prefix runs on ONNX Runtime, as it does in `onnx.py`.
"""

import itertools
import math
import operator
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from service.engine import native
from service.engine.program import Split
from service.engine.runtimes import Array, Frontier
from service.engine.runtimes.onnx import OnnxPrefix
from service.engine.sites import Site

# Above this density a dense product is faster. Measured on two cores of AMD Zen 3, 400 pairs, layers of 1024: a sparse
# one takes half the time of ONNX Runtime's at a density of 0.25, and as long at 0.5 to 0.6.
_MOST_DENSE = 0.5
# Below so many multiply-adds a pair, what a call costs before its first one decides, and ONNX Runtime is as good.
_FEWEST_MULTIPLY_ADDS = 100_000
# With fewer pairs than this, a second thread reads the weights again for too few of them.
_PAIRS_A_THREAD = 16
_THREADS = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sparse")

# What a ReLU is expected to let through; in trained networks it is less.
_SHARE_BEHIND_RELU = 0.5

_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.flatten.using_ints)


@dataclass(frozen=True)
class Layer:
    """`weight @ (act(x) * mask) + bias`.

    Attributes:
        weight: `[outputs, inputs]`.
        bias: `[outputs]`, or None.
        relu: whether `act` is a ReLU; otherwise it is nothing.
        mask: which of the program's masks; None where there is none.
        density: the share of inputs that are expected not to be zero.
    """

    weight: Tensor
    bias: Tensor | None
    relu: bool
    mask: int | None
    density: float


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
    def worthwhile(self) -> bool:
        """Whether it is expected to run faster than a dense program; a rule, so that a network always runs the same."""
        dense = sum(layer.weight.numel() for layer in self.layers)
        sparse = sum(
            layer.density * layer.weight.shape[1] * _rounded_up(layer.weight.shape[0], native.PANEL)
            for layer in self.layers
        )
        return dense >= _FEWEST_MULTIPLY_ADDS and sparse <= _MOST_DENSE * dense


def recognise(split: Split, sites: Sequence[Site]) -> Chain | None:
    """The chain that the suffix of `split` is, or None where it is anything else, or the extension was not built.

    A chain begins with one value a row and goes from linear layer to linear layer. Between them there may be a ReLU and
    then a mask of one factor a unit; anything else, such as another activation, a skip connection or a normalization,
    makes it no chain.
    """
    if not native.available:
        return None
    nodes = split.suffix.graph.nodes
    results = _results(split.suffix)
    inputs = [node for node in nodes if node.op == "placeholder"]
    rows, start, masks = inputs[0], inputs[1], inputs[1 + len(split.frontier) :]
    if len(results) != 1 or len(split.frontier) != 1 or not split.frontier[0].per_row:
        return None
    layers: list[Layer] = []
    node = results[0]
    width: int | None = None
    # From the output back: a node that depends on nothing but the one before it leaves nothing out.
    while node.target is not _aten.index_select.default:
        found = _layer_before(node, masks, sites, split.suffix)
        if found is None or (width is not None and len(found[0].weight) != width):
            return None
        layer, node = found
        layers.insert(0, layer)
        width = layer.weight.shape[1]
    if node.args != (start, 0, rows) or width != math.prod(split.frontier[0].shape):
        return None
    origin = _results(split.prefix)[0]
    while origin.target in _RESHAPES:
        origin = origin.args[0]
    if origin.target is _aten.relu.default and not layers[0].relu:
        layers[0] = replace(layers[0], density=_SHARE_BEHIND_RELU * layers[0].density)
    given = [node for node in split.prefix.graph.nodes if node.op == "placeholder"]
    return Chain(tuple(layers), given.index(origin) if origin in given else None)


def requirement() -> str:
    """What a network or an installation lacks for which `recognise` finds nothing."""
    if not native.available:
        return "its C extension was not built, which takes a C compiler at the time the package is installed"
    return "it takes float32 linear layers, one after another, with ReLU and element-wise dropout between them"


def _layer_before(
    node: fx.Node, masks: list[fx.Node], sites: Sequence[Site], module: fx.GraphModule
) -> tuple[Layer, fx.Node] | None:
    """The layer that ends with `node`, and the node that its input comes from."""
    if node.target is not _aten.linear.default or node.meta["val"].dim() != 2:
        return None
    source: Any  # a node, as every argument here; torch.fx declares more
    source, *parameters = node.args
    weight, bias = (*(_parameter(value, module) for value in parameters), None)[:2]
    if weight is None or (bias is None and len(parameters) == 2):
        return None
    mask: int | None = None
    relu = False
    while source.target in (_aten.mul.Tensor, _aten.relu.default, *_RESHAPES):
        if source.target is _aten.mul.Tensor:
            # A mask in front of the ReLU is another function where it meets an infinity.
            factors = [value for value in source.args if value in masks]
            if mask is not None or relu or len(factors) != 1 or source.meta["val"].dim() != 2:
                return None
            mask = masks.index(factors[0])
            if sites[mask].scope != "row" or sites[mask].mask_shape != (weight.shape[1],):
                return None
            source = next(value for value in source.args if value is not factors[0])
        else:
            relu = relu or source.target is _aten.relu.default
            source = source.args[0]
    dropped = 0.0 if mask is None else sites[mask].p or 0.0
    density = (1.0 - dropped) * (_SHARE_BEHIND_RELU if relu else 1.0)
    return Layer(weight, bias, relu, mask, density), source


def _results(module: fx.GraphModule) -> tuple[Any, ...]:
    """The nodes that a graph returns."""
    (results,) = next(node for node in module.graph.nodes if node.op == "output").args
    return tuple(results)


def _parameter(value: object, module: fx.GraphModule) -> Tensor | None:
    """The finite float32 numbers that a node of the graph stands for, if it does."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return None
    tensor = operator.attrgetter(str(value.target))(module)
    return tensor.detach() if tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all()) else None


class SparseRuntime:
    """Runs the prefix on ONNX Runtime and a suffix that is a `Chain` natively."""

    name = "sparse"
    device = "cpu"

    def __init__(self, split: Split, chain: Chain, inputs: tuple[Tensor, ...]) -> None:
        """Pack the weights, and load the prefix.

        Args:
            split: the program.
            chain: what `recognise` found in it.
            inputs: example inputs, `[EXAMPLE_ROWS, ...]` each.
        """
        self._input = chain.input
        self._prefix = OnnxPrefix(split, inputs) if chain.input is None else None
        self._masks = [layer.mask for layer in chain.layers]
        self._outputs = len(chain.layers[-1].weight)
        self._chain = native.MaskedChain(
            [
                native.Linear.pack(
                    layer.weight.numpy(), None if layer.bias is None else layer.bias.numpy(), relu=layer.relu
                )
                for layer in chain.layers
            ]
        )

    def prefix(self, inputs: tuple[Array, ...]) -> Frontier:
        if self._prefix is None:
            assert self._input is not None
            return (inputs[self._input],)
        return self._prefix.run(inputs)

    def suffix(self, frontier: Frontier, rows: npt.NDArray[np.int64], masks: list[Array]) -> tuple[Array, ...]:
        x = np.ascontiguousarray(frontier[0], np.float32).reshape(len(frontier[0]), -1)
        rows = np.ascontiguousarray(rows, np.int64)
        used = [None if index is None else np.ascontiguousarray(masks[index], np.float32) for index in self._masks]
        out = np.empty((len(rows), self._outputs), np.float32)
        threads = max(1, min(os.cpu_count() or 1, len(rows) // _PAIRS_A_THREAD))
        bounds = [len(rows) * part // threads for part in range(threads + 1)]
        first, *others = itertools.pairwise(bounds)
        waiting = [_THREADS.submit(self._chain.run, x, rows, used, out, *part) for part in others]
        self._chain.run(x, rows, used, out, *first)
        for future in waiting:
            future.result()
        return (out,)


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
