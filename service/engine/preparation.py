"""Preparation: of the ways to run a network, the fastest that passes its checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from service.engine.candidates import Candidate, candidates, first_line
from service.engine.errors import UnsupportedModelError, VerificationError
from service.engine.inputs import RuntimeName, Task
from service.engine.masks import MaskSource
from service.engine.network import Network
from service.engine.program import FrontierValue
from service.engine.runtimes import Array, Runtime
from service.engine.runtimes.torch import EagerRuntime
from service.engine.verify import (
    Check,
    Deterministic,
    dropout_mixes_rows,
    raise_if_failed,
    run_pairs,
    verify,
    verify_deterministic,
)


@dataclass(frozen=True)
class Program:
    """How a network runs.

    Attributes:
        strategy: "split": what no mask touches runs once a row; "whole": all of it runs once a pass; "mapped" and
            "loop": so it does, with every row a batch of its own, all at once or one after another.
        runtime: "sparse", "onnx", "torch", or "eager" (the module itself).
        device: "cpu" or a CUDA device.
        reason: why nothing faster was used; None where nothing faster was tried.
        frontier: the tensors that cross from prefix to suffix.
        prefix_operations: operations that run once a row.
        suffix_operations: operations that run once a pass.
        checks: what was verified when it was loaded.
    """

    strategy: str
    runtime: str
    device: str
    reason: str | None
    frontier: tuple[FrontierValue, ...]
    prefix_operations: int
    suffix_operations: int
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Prepared:
    """A network, ready to run.

    Attributes:
        source: draws its masks.
        runtime: runs it.
        baseline: runs it with nothing dropped: `runtime`, or another where there are no masks that keep everything.
        program: what there is to know of it.
        pair_bytes: the memory that one pass of one row takes, in bytes.
    """

    source: MaskSource
    runtime: Runtime
    baseline: Runtime
    program: Program
    pair_bytes: int


def prepare(
    task: Task,
    network: Network,
    arrays: tuple[Array, ...],
    examples: tuple[Tensor, ...],
    device: str,
    runtime: RuntimeName,
) -> Prepared:
    """Find the fastest way to run a network that passes its checks.

    Args:
        task: what its outputs are.
        network: the masked copy.
        arrays, examples: example inputs, `[EXAMPLE_ROWS, ...]` each, as arrays and as tensors.
        device: where to run it.
        runtime: what to run it on.

    Raises:
        UnsupportedModelError: it cannot be run.
        VerificationError: it failed a check.
    """
    source = MaskSource(network.sites)
    eager = EagerRuntime(network)
    rows = len(arrays[0])
    _check_output_shape(task, rows, run_pairs(eager, arrays, source.keep_everything(rows)))
    network.alone = dropout_mixes_rows(network, eager, source, arrays)
    reasons: list[str] = []
    baseline: Runtime | None = None
    plain: Runtime = eager
    if network.has_raw_sites:
        quiet = network.baseline()
        plain = EagerRuntime(quiet)

        def check_baseline(found: Runtime) -> list[Check]:
            checks = verify_deterministic(network, Deterministic(found, plain, []), arrays)
            raise_if_failed(checks)
            return checks

        ways = candidates(quiet, MaskSource(()), examples, device, runtime, [])
        _, baseline, _ = _first_that_passes(ways, check_baseline, [])
    masks = [] if network.has_raw_sites else source.keep_everything(rows)

    def check(found: Runtime) -> list[Check]:
        return verify(network, found, eager, source, arrays, Deterministic(baseline or found, plain, masks))

    ways = candidates(network, source, examples, device, runtime, reasons)
    candidate, running, checks = _first_that_passes(ways, check, reasons)
    cut = candidate.cut
    program = Program(
        strategy=running.strategy if isinstance(running, EagerRuntime) else candidate.strategy,
        runtime=running.name,
        device=running.device,
        reason="; ".join(reasons) or None,
        frontier=cut.frontier if cut else (),
        prefix_operations=cut.prefix_operations if cut else 0,
        suffix_operations=cut.suffix_operations if cut else 0,
        checks=tuple(checks),
    )
    pair_bytes = source.bytes_per_pass + (cut.suffix_bytes if cut else 0)
    return Prepared(source, running, baseline or running, program, pair_bytes)


def _first_that_passes(
    ways: Iterator[Candidate], check: Callable[[Runtime], list[Check]], reasons: list[str]
) -> tuple[Candidate, Runtime, list[Check]]:
    """The first way to run a network that passes its checks; why those before it do not is added to `reasons`."""
    refusal: Exception | None = None
    for candidate in ways:
        try:
            running = candidate.build()
            return candidate, running, check(running)
        except VerificationError as error:
            refusal = error
            reasons.append(str(error))
        except Exception as error:  # whatever an exporter raises: the next candidate does without it
            refusal = UnsupportedModelError(f"{candidate.strategy} program: {first_line(error)}")
            reasons.append(str(refusal))
    assert refusal is not None
    raise refusal


def _check_output_shape(task: Task, rows: int, outputs: tuple[Array, ...]) -> None:
    shapes = [list(out.shape) for out in outputs]
    if task == "classification" and (len(shapes) != 1 or len(shapes[0]) < 2 or shapes[0][1] < 2):
        raise UnsupportedModelError(
            f"for {rows} rows the network returns outputs of shape {shapes}; classification takes one output of "
            "logits, [rows, classes, ...], with 2 classes or more"
        )
    if task == "regression" and (len(shapes) > 2 or shapes[0] != shapes[-1]):
        raise UnsupportedModelError(
            f"for {rows} rows the network returns outputs of shape {shapes}; regression takes the mean, or the mean "
            "and the logarithm of the variance in the same shape"
        )
    if any(not shape or shape[0] != rows for shape in shapes):
        raise UnsupportedModelError(
            f"for {rows} rows the network returns outputs of shape {shapes}; their first dimension must be the rows"
        )
