"""Forms: the programs that a PyTorch network is made into, as graphs of PyTorch, as ONNX, and as the module itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from mcdropout.engine.errors import first_line
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.program import Graphs, Outline
from mcdropout.engine.pytorch.batches import Batches
from mcdropout.engine.pytorch.cut.conversion import convert
from mcdropout.engine.pytorch.cut.cost import cost_of_split, cost_of_whole
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS, axes_of, example_masks, export
from mcdropout.engine.pytorch.cut.split import CannotSplitError, Split, split
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes import Form, FormError, Refusal, Runnable, Runtime, Target
from mcdropout.engine.sizes import Sizing
from mcdropout.engine.stages import begin


def programs(
    network: Network,
    source: MaskSource,
    examples: tuple[Tensor, ...],
    target: Target,
    sizing: Sizing | None = None,
) -> Iterator[Runnable | Refusal]:
    """The programs that a network can be made into, and why there are no others.

    Args:
        network: the masked copy.
        source: draws its masks.
        examples: example inputs, `[EXAMPLE_ROWS, ...]` each.
        target: where it is to run; what none of its runtimes takes is not made.
        sizing: which sizes of the inputs may differ; None where none may.
    """
    if network.one_by_one:
        yield Refusal("it drops for each row by itself, so that each is run as a batch of its own")
    elif network.alone:
        yield Refusal("rows would influence one another, so that each is run as a batch of its own")
    elif target.forms & {Form.MODULES, Form.GRAPHS}:
        cuts = list(_cuts(network, source, examples, sizing))
        # Why there are not more of them comes before what becomes of each.
        yield from (cut for cut in cuts if isinstance(cut, Refusal))
        axes = axes_of(sizing, source.sites, len(examples))
        yield from (_runnable(*cut, source, examples, axes) for cut in cuts if not isinstance(cut, Refusal))
    if Form.EAGER in target.forms:
        strategy = "whole"
        if network.alone:
            strategy = "mapped" if network.maps else "repeated" if network.repeats > 1 else "loop"
        cost = partial(cost_of_whole, network, source, examples)
        yield Runnable(strategy, Outline(), cost, {Form.EAGER: lambda: partial(_eager, network, source, examples)})


def _cuts(
    network: Network, source: MaskSource, examples: tuple[Tensor, ...], sizing: Sizing | None
) -> Iterator[tuple[str, Split] | Refusal]:
    """The programs that an exported network can be cut into, with their strategies, the most in the prefix first."""
    begin("following it by torch.export")
    try:
        graph = export(network, examples, source, sizing)
    except Exception as error:  # whatever the exporter raises
        yield Refusal(f"torch.export cannot follow the network: {first_line(error)}")
        return
    try:
        cut = split(graph, len(examples))
        yield "split", _with_sizes(cut, examples, sizing)
        if any(value.merged for value in cut.frontier):
            yield "split", _with_sizes(split(graph, len(examples), merged=False), examples, sizing)
    except CannotSplitError as error:
        yield Refusal(f"split program: {error}")
    try:
        yield "whole", _with_sizes(split(graph, len(examples), whole=True), examples, sizing)
    except CannotSplitError as error:
        yield Refusal(f"whole program: {error}")


def _with_sizes(cut: Split, examples: tuple[Tensor, ...], sizing: Sizing | None) -> Split:
    """A program with the dimensions that follow sizes, found by running it: of recurrent layers a graph says others."""
    if sizing is None:
        return cut
    others = sizing.examples_at([x.numpy() for x in examples], sizing.unlike())
    with torch.no_grad():
        try:
            here, there = cut.prefix(*examples), cut.prefix(*map(torch.from_numpy, others))
        except Exception:  # it runs at the examples' sizes alone, which its checks will say
            return cut
    pairs = zip(here, there, strict=True)
    axes = tuple(tuple(axis for axis in range(1, a.ndim) if a.shape[axis] != b.shape[axis]) for a, b in pairs)
    return replace(cut, named_axes=axes)


def _runnable(
    strategy: str, cut: Split, source: MaskSource, examples: tuple[Tensor, ...], axes: Sequence[tuple[int, ...]]
) -> Runnable:
    return Runnable(
        strategy,
        cut.outline,
        partial(cost_of_split, cut, source, examples),
        {Form.MODULES: lambda: cut, Form.GRAPHS: cache(partial(_as_onnx, cut, source, examples, axes))},
    )


def _as_onnx(cut: Split, source: MaskSource, examples: tuple[Tensor, ...], axes: Sequence[tuple[int, ...]]) -> Graphs:
    begin("writing it as ONNX")
    per_pair = [site.scope == "row" for site in source.sites]
    try:
        halves = convert(cut, examples, example_masks(source, EXAMPLE_PAIRS), per_pair, axes)
    except Exception as error:  # whatever the exporter raises
        raise FormError(f"torch.onnx.export cannot write it: {first_line(error)}") from error
    return halves.write(source.sites)


def _eager(network: Network, source: MaskSource, examples: tuple[Tensor, ...], device: str) -> Runtime:
    """The module itself; a copy where it is not on the CPU, where the reference stays."""
    runtime = EagerRuntime(network if device == "cpu" else network.copy(), device)
    if network.maps or not network.alone:
        try:
            runtime.batches.measure(runtime, source, tuple(x.numpy() for x in examples), network.tolerance)
        except Exception:  # whatever the network raises: its checks, and who asks it, will see
            runtime.batches = Batches()
    runtime.decide(source, tuple(x.numpy() for x in examples), network.tolerance)
    return runtime
