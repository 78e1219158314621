"""What runs a program that is ONNX: the native runtime where it is a chain, and ONNX Runtime."""

from collections.abc import Callable, Iterator
from functools import partial

from mcdropout.engine import native
from mcdropout.engine.program import Cost, Graphs
from mcdropout.engine.runtimes.onnx import OnnxRuntime
from mcdropout.engine.runtimes.sparse import SparseRuntime, requirement
from mcdropout.engine.subject import Candidate, Target


def ways_to_run(
    strategy: str, graphs: Graphs, cost: Callable[[], Cost], target: Target, reasons: list[str]
) -> Iterator[Candidate]:
    """The ways to run a program, fastest first; why one that was asked for is left out is added to `reasons`.

    Args:
        strategy, cost: as a `Candidate` has them.
        graphs: the program.
        target: where it is to run.
        reasons: why nothing faster runs.
    """
    chain = graphs.chain if native.available else None
    if chain and (target.runtime == "sparse" or (target.prefers_sparse and chain.worthwhile)):
        yield Candidate(strategy, graphs.outline, cost, partial(SparseRuntime, graphs, chain, target.options))
    if target.runtime != "sparse":
        yield Candidate(strategy, graphs.outline, cost, partial(OnnxRuntime, graphs, target.options))
    elif not chain:
        reasons.append(requirement())
