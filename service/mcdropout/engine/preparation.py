"""Preparation: of the ways to run a network, the fastest that passes its checks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import UnsupportedModelError, VerificationError, first_line
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.program import Outline, Program
from mcdropout.engine.reading import Task
from mcdropout.engine.runtimes import Runtime
from mcdropout.engine.sites import SiteOff
from mcdropout.engine.subject import Candidate, Subject, Target
from mcdropout.engine.verify import (
    Reference,
    check_baseline,
    check_network,
    check_program,
    raise_if_failed,
    run_pairs,
    take_reference,
)


@dataclass(frozen=True)
class Prepared:
    """A network, ready to run.

    Attributes:
        source: draws its masks.
        off: the sites that are off.
        inputs: what it takes.
        runtime: runs it.
        baseline: runs it with nothing dropped: `runtime`, or another where there are no masks that keep everything.
        program: what there is to know of it.
        outline: of the program.
        reference: what the network itself answers, against which programs are checked.
        network_checks: those of its `program.checks` that are of the network, whatever runs it.
    """

    source: MaskSource
    off: tuple[SiteOff, ...]
    inputs: tuple[InputSpec, ...]
    runtime: Runtime
    baseline: Runtime
    program: Program
    outline: Outline
    reference: Reference
    network_checks: tuple[Check, ...]

    @property
    def pair_bytes(self) -> int:
        """The memory that one pass of one row takes, in bytes."""
        return self.source.bytes_per_pass + self.outline.suffix_bytes


def prepare(task: Task, subject: Subject, target: Target) -> Prepared:
    """Find the fastest way to run a network that passes its checks.

    Args:
        task: what its outputs are.
        subject: the network, and what it is checked against.
        target: where to run it.

    Raises:
        UnsupportedModelError: it cannot be run.
        VerificationError: it failed a check.
    """
    arrays, source = subject.arrays, MaskSource(subject.sites)
    rows = len(arrays[0])
    _check_output_shape(task, rows, run_pairs(subject.eager, arrays, source.keep_everything(rows)))
    wanted = subject.eval_outputs()
    kept = [] if source.has_raw_sites else source.keep_everything(rows)
    first = check_network(subject.plain, kept, arrays, wanted)
    if not first.passed and subject.advice:
        first = replace(first, detail=f"{first.detail}; {subject.advice}")
    of_network = [first]
    raise_if_failed(of_network)
    reference = take_reference(subject.eager, source, arrays, wanted, subject.tolerance)
    baseline: Runtime | None = None
    if source.has_raw_sites:

        def check_plain(found: Runtime) -> list[Check]:
            checks = [check_baseline(found, source, reference)]
            raise_if_failed(checks)
            return checks

        _, baseline, _ = first_that_passes(subject.baseline_candidates(target), check_plain, [])

    def check(found: Runtime) -> list[Check]:
        return check_program(found, baseline or found, source, reference)

    reasons: list[str] = []
    candidate, running, of_program = first_that_passes(subject.candidates(target, reasons), check, reasons)
    of_network += subject.own_checks()
    raise_if_failed(of_network)
    program = Program(
        strategy=candidate.strategy,
        runtime=running.name,
        device=running.device,
        reason="; ".join(reasons) or None,
        frontier=candidate.outline.frontier,
        prefix_operations=candidate.outline.prefix_operations,
        suffix_operations=candidate.outline.suffix_operations,
        cost=candidate.cost(),
        checks=(*of_network, *of_program),
    )
    return Prepared(
        source=source,
        off=subject.off,
        inputs=subject.inputs,
        runtime=running,
        baseline=baseline or running,
        program=program,
        outline=candidate.outline,
        reference=reference,
        network_checks=tuple(of_network),
    )


def first_that_passes(
    ways: Iterable[Candidate], check: Callable[[Runtime], list[Check]], reasons: list[str]
) -> tuple[Candidate, Runtime, list[Check]]:
    """The first way to run a network that passes its checks; why those before it do not is added to `reasons`.

    Raises:
        UnsupportedModelError: the last could not be built; or there is none.
        VerificationError: the last failed a check.
    """
    refusal: Exception | None = None
    for candidate in ways:
        try:
            running = candidate.build()
            return candidate, running, check(running)
        except VerificationError as error:
            refusal = error
            reasons.append(str(error))
        except Exception as error:  # whatever an exporter or a runtime raises: the next candidate does without it
            refusal = UnsupportedModelError(f"{candidate.strategy} program: {first_line(error)}")
            reasons.append(str(refusal))
    raise refusal or UnsupportedModelError("; ".join(reasons))


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
