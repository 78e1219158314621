"""Candidates: the ways to run a network, of which the engine takes the first that passes its checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from service.engine.errors import UnsupportedModelError
from service.engine.inputs import RuntimeName
from service.engine.masks import MaskSource
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
from service.engine.sites import Network


@dataclass(frozen=True)
class Candidate:
    """A way to run a network.

    Attributes:
        strategy: "split" or "whole".
        cut: the program; None where the module itself runs.
        build: sets it up; raises whatever an exporter or a runtime does.
    """

    strategy: str
    cut: Split | None
    build: Callable[[], Runtime]


def candidates(
    network: Network,
    origin: nn.Module,
    source: MaskSource,
    examples: tuple[Tensor, ...],
    device: str,
    runtime: RuntimeName,
    reasons: list[str],
) -> Iterator[Candidate]:
    """The ways to run a network, fastest first; why one is left out is added to `reasons`."""
    own = network if device == "cpu" else Network(origin, examples)  # the reference stays on the CPU
    eager = Candidate("whole", None, partial(EagerRuntime, own, device))
    if runtime == "eager":
        yield eager
        return
    cuts: list[tuple[str, Split]] = []
    try:
        graph = export(network, examples, source)
    except Exception as error:
        reasons.append(f"torch.export cannot follow the network: {first_line(error)}")
    else:
        for strategy in ("split", "whole"):
            try:
                cuts.append((strategy, split(graph, len(examples), whole=strategy == "whole")))
            except CannotSplitError as error:
                reasons.append(f"{strategy} program: {error}")
    masks = example_masks(source, EXAMPLE_PAIRS)
    per_pair = [site.scope == "row" for site in source.sites]
    chains = {strategy: chain for strategy, cut in cuts if (chain := recognise(cut, source.sites))}
    if runtime == "sparse" and not chains:
        reasons.append(sparse.requirement())
        cuts.clear()
    for strategy, cut in cuts:
        chain = chains.get(strategy)
        if chain and (runtime == "sparse" or (runtime == "auto" and device == "cpu" and chain.worthwhile)):
            yield Candidate(strategy, cut, partial(SparseRuntime, cut, chain, examples))
        if runtime == "onnx" or (runtime == "auto" and device == "cpu"):
            yield Candidate(strategy, cut, partial(OnnxRuntime, cut, examples, masks, per_pair))
        if runtime in ("torch", "auto"):
            yield Candidate(strategy, cut, partial(TorchRuntime, cut, device))
    if runtime == "auto":
        yield eager
    elif not cuts:
        raise UnsupportedModelError(f"the network cannot run on {runtime}: {'; '.join(reasons)}")


def first_line(error: Exception) -> str:
    """What kind of error it is, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"
