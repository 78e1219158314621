"""Candidates: the ways to run a network, of which the engine takes the first that passes its checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from service.engine.errors import UnsupportedModelError
from service.engine.inputs import RuntimeName
from service.engine.masks import MaskSource
from service.engine.network import Network
from service.engine.program import (
    EXAMPLE_PAIRS,
    CannotSplitError,
    Split,
    example_masks,
    export,
    split,
)
from service.engine.runtimes import Runtime, sparse
from service.engine.runtimes.onnx import OnnxRuntime
from service.engine.runtimes.sparse import SparseRuntime, recognise
from service.engine.runtimes.torch import EagerRuntime, TorchRuntime


@dataclass(frozen=True)
class Candidate:
    """A way to run a network.

    Attributes:
        strategy: "split", "whole" or "alone".
        cut: the program; None where the module itself runs.
        build: sets it up; raises whatever an exporter or a runtime does.
    """

    strategy: str
    cut: Split | None
    build: Callable[[], Runtime]


def candidates(
    network: Network,
    source: MaskSource,
    examples: tuple[Tensor, ...],
    device: str,
    runtime: RuntimeName,
    reasons: list[str],
) -> Iterator[Candidate]:
    """The ways to run a network, fastest first; why one is left out is added to `reasons`."""
    own = network if device == "cpu" else network.copy()  # the reference stays on the CPU
    eager = Candidate("alone" if network.alone else "whole", None, partial(EagerRuntime, own, device))
    if network.alone:
        reasons.append("its dropout mixes rows, so that each row is run as a batch of its own")
    cuts = [] if runtime == "eager" or network.alone else list(_cuts(network, source, examples, reasons))
    masks = example_masks(source, EXAMPLE_PAIRS)
    per_pair = [site.scope == "row" for site in source.sites]
    chains = [recognise(cut, source.sites) for _, cut in cuts]
    if runtime == "sparse" and not any(chains):
        reasons.append(sparse.requirement())
        cuts.clear()
    for (strategy, cut), chain in zip(cuts, chains, strict=False):
        if chain and (runtime == "sparse" or (runtime == "auto" and device == "cpu" and chain.worthwhile)):
            yield Candidate(strategy, cut, partial(SparseRuntime, cut, chain, examples))
        if runtime == "onnx" or (runtime == "auto" and device == "cpu"):
            yield Candidate(strategy, cut, partial(OnnxRuntime, cut, examples, masks, per_pair))
        if runtime in ("torch", "auto"):
            yield Candidate(strategy, cut, partial(TorchRuntime, cut, device))
    if runtime in ("auto", "eager"):
        yield eager
    elif not cuts:
        raise UnsupportedModelError(f"the network cannot run on {runtime}: {'; '.join(reasons)}")


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


def first_line(error: Exception) -> str:
    """What kind of error it is, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"
