"""Preparation: of the ways to run a network, the fastest that passes its checks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from service.engine.candidates import Candidate, candidates, first_line
from service.engine.cost import Cost, cost_of_split, cost_of_whole
from service.engine.discovery import discover
from service.engine.errors import UnsupportedModelError, VerificationError
from service.engine.inputs import Inputs, InputSpec, RuntimeName, Task, as_example, as_tuple, row_axes
from service.engine.masks import MaskSource
from service.engine.network import Network, with_rows
from service.engine.program import EXAMPLE_ROWS, FrontierValue
from service.engine.runtimes import Array, Runtime
from service.engine.runtimes.torch import EagerRuntime
from service.engine.selection import Selection
from service.engine.signature import Entry, Signature
from service.engine.sites import SiteOff
from service.engine.verify import (
    Check,
    Deterministic,
    dropout_mixes_rows,
    raise_if_failed,
    run_pairs,
    unlike_rows,
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
        cost: the floating-point operations of both.
        checks: what was verified when it was loaded.
    """

    strategy: str
    runtime: str
    device: str
    reason: str | None
    frontier: tuple[FrontierValue, ...]
    prefix_operations: int
    suffix_operations: int
    cost: Cost
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Understood:
    """A network whose randomness is known.

    Attributes:
        network: the masked copy.
        off: the sites that are off.
        inputs: what it takes.
        arrays: example inputs, `[EXAMPLE_ROWS, ...]` each, whose rows differ.
    """

    network: Network
    off: tuple[SiteOff, ...]
    inputs: tuple[InputSpec, ...]
    arrays: tuple[Array, ...]


def understand(
    module: nn.Module,
    example_inputs: Inputs,
    *,
    row_axis: int | Sequence[int] | Mapping[str, int] = 0,
    outputs: Entry | Sequence[Entry] | None = None,
    output_row_axis: int = 0,
    selection: Selection | None = None,
) -> Understood:
    """Find out what a network takes and what in it is random; arguments and errors as for `Engine.from_module`."""
    axes = row_axes(example_inputs, row_axis)
    given = [as_example(x, axis) for x, axis in zip(as_tuple(example_inputs), axes, strict=True)]
    arrays = tuple(unlike_rows(with_rows(x, EXAMPLE_ROWS).numpy(), len(x)) for x in given)
    names = tuple(example_inputs) if isinstance(example_inputs, Mapping) else None
    entries = (outputs,) if isinstance(outputs, str | int) else None if outputs is None else tuple(outputs)
    signature = Signature(names, axes, entries, output_row_axis)
    found = discover(module, [torch.from_numpy(x) for x in arrays], signature, selection)
    specs = tuple(
        InputSpec(x.shape[1:], x.dtype, names[index] if names else None, axes[index]) for index, x in enumerate(arrays)
    )
    return Understood(found.network, found.off, specs, arrays)


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


def prepare(task: Task, understood: Understood, device: str, runtime: RuntimeName) -> Prepared:
    """Find the fastest way to run a network that passes its checks.

    Args:
        task: what its outputs are.
        understood: the masked copy, and what it takes.
        device: where to run it.
        runtime: what to run it on.

    Raises:
        UnsupportedModelError: it cannot be run.
        VerificationError: it failed a check.
    """
    network, arrays = understood.network, understood.arrays
    examples = tuple(torch.from_numpy(x) for x in arrays)
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
        cost=cost_of_split(cut, source, examples) if cut else cost_of_whole(network, source, examples),
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
