"""Candidates: the ways to run a PyTorch network, of which the engine takes the first that passes its checks."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from mcdropout.engine.errors import UnsupportedModelError, first_line
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.program import Cost, Outline
from mcdropout.engine.pytorch.cut.conversion import convert
from mcdropout.engine.pytorch.cut.cost import cost_of_split, cost_of_whole
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS, example_masks, export
from mcdropout.engine.pytorch.cut.split import CannotSplitError, Split, split
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.graphs import ways_to_run
from mcdropout.engine.runtimes.torch import EagerRuntime, TorchRuntime
from mcdropout.engine.subject import Candidate, Target


def candidates(
    network: Network, source: MaskSource, examples: tuple[Tensor, ...], target: Target, reasons: list[str]
) -> Iterator[Candidate]:
    """The ways to run a network, fastest first; why one is left out is added to `reasons`.

    Args:
        network: the masked copy.
        source: draws its masks.
        examples: example inputs, `[EXAMPLE_ROWS, ...]` each.
        target: where it is to run.
        reasons: why nothing faster runs.

    Raises:
        UnsupportedModelError: it cannot run on what is asked for.
    """
    device, runtime = target.device, target.runtime
    if network.alone:
        reasons.append("its dropout mixes rows, so that each row is run as a batch of its own")
    cuts: list[tuple[str, Split]] = []
    if runtime != "eager" and not network.alone:
        cuts = list(_cuts(network, source, examples, reasons))
    ran = False
    for strategy, cut in cuts:
        cost = partial(cost_of_split, cut, source, examples)
        if runtime in ("sparse", "onnx") or (runtime == "auto" and device == "cpu"):
            for candidate in _as_onnx(strategy, cut, cost, source, examples, target, reasons):
                ran = True
                yield candidate
        if runtime in ("torch", "auto"):
            ran = True
            yield Candidate(strategy, cut.outline, cost, partial(TorchRuntime, cut, device))
    if runtime in ("auto", "eager"):
        own = network if device == "cpu" else network.copy()  # the reference stays on the CPU
        strategy = "whole" if not network.alone else "mapped" if network.maps else "loop"
        whole = partial(cost_of_whole, network, source, examples)
        yield Candidate(strategy, Outline(), whole, partial(EagerRuntime, own, device))
    elif not ran:
        raise UnsupportedModelError(f"the network cannot run on {runtime}: {'; '.join(dict.fromkeys(reasons))}")


def _as_onnx(
    strategy: str,
    cut: Split,
    cost: "partial[Cost]",
    source: MaskSource,
    examples: tuple[Tensor, ...],
    target: Target,
    reasons: list[str],
) -> Iterator[Candidate]:
    """What runs a program as ONNX."""
    per_pair = [site.scope == "row" for site in source.sites]
    try:
        halves = convert(cut, examples, example_masks(source, EXAMPLE_PAIRS), per_pair)
    except Exception as error:  # whatever the exporter raises
        reasons.append(f"{strategy} program: torch.onnx.export cannot write it: {first_line(error)}")
        return
    yield from ways_to_run(strategy, halves.write(source.sites), cost, target, reasons)


def _cuts(
    network: Network, source: MaskSource, examples: tuple[Tensor, ...], reasons: list[str]
) -> Iterator[tuple[str, Split]]:
    """The programs that an exported network can be cut into, that with the most in its prefix first."""
    try:
        graph = export(network, examples, source)
    except Exception as error:
        reasons.append(f"torch.export cannot follow the network: {first_line(error)}")
        return
    try:
        cut = split(graph, len(examples))
        yield "split", cut
        if any(value.merged for value in cut.frontier):
            yield "split", split(graph, len(examples), merged=False)
    except CannotSplitError as error:
        reasons.append(f"split program: {error}")
    try:
        yield "whole", split(graph, len(examples), whole=True)
    except CannotSplitError as error:
        reasons.append(f"whole program: {error}")
