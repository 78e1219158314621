"""Preparation: of the ways to run a network, the fastest that passes its checks."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.candidates import Candidate, candidates
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import EngineError, InvalidInputError, UnsupportedModelError, VerificationError
from mcdropout.engine.faults import described, refusing
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.masks import Masks, MaskSource
from mcdropout.engine.program import Graphs, Outline, Program
from mcdropout.engine.ranges import with_ranges
from mcdropout.engine.reading import Reading
from mcdropout.engine.returned import check_count
from mcdropout.engine.runtimes import Refusal, Runnable, Runtime, Target
from mcdropout.engine.runtimes.protocol import measure, runtime_at
from mcdropout.engine.settling import settle
from mcdropout.engine.sites import SiteOff
from mcdropout.engine.sizes import Sizes, Sizing, told
from mcdropout.engine.stages import begin
from mcdropout.engine.statistics import deterministic
from mcdropout.engine.subject import Subject
from mcdropout.engine.trials import Trial
from mcdropout.engine.verify import (
    ROWS,
    Reference,
    check_baseline,
    check_network,
    check_program,
    raise_if_failed,
    run_pairs,
    take_reference,
)

_FEWER_ROWS = 2  # than there are examples


@dataclass(frozen=True)
class Sized:
    """What a network itself answers for some rows of other sizes than those of the examples."""

    sizes: dict[str, int]
    reference: Reference


@dataclass(frozen=True)
class Prepared:
    """A network, ready to run.

    Attributes:
        reading: what its outputs mean, with nothing left open.
        source: draws its masks.
        off: the sites that are off.
        inputs: what it takes.
        runtime: runs it.
        baseline: runs it with nothing dropped: `runtime`, or another where there are no masks that keep everything.
        graphs, baseline_graphs: what can be written to files: what they run, or would where there is no PyTorch; None
            where there is nothing that is ONNX.
        program: what there is to know of it.
        outline: of the program.
        reference: what the network itself answers, against which programs are checked.
        sizing: which sizes of the inputs may differ; None where none may.
        others: what the network itself answers at some other sizes.
        network_checks: those of its `program.checks` that are of the network, whatever runs it.
    """

    reading: Reading
    source: MaskSource
    off: tuple[SiteOff, ...]
    inputs: tuple[InputSpec, ...]
    runtime: Runtime
    baseline: Runtime
    graphs: Graphs | None
    baseline_graphs: Graphs | None
    program: Program
    outline: Outline
    reference: Reference
    network_checks: tuple[Check, ...]
    sizing: Sizing | None = None
    others: tuple[Sized, ...] = ()

    @property
    def pair_bytes(self) -> int:
        """The memory that one pass of one row takes, in bytes."""
        return self.source.bytes_per_pass + self.outline.suffix_bytes

    def dropping(self, p: float) -> "Prepared":
        """The same where each site drops a unit with the probability `p`, whatever it did before.

        Raises:
            InvalidInputError: p is no such probability, or the network draws numbers of its own, of which only it knows
                what their probability is.
        """
        if not 0.0 < p < 1.0:
            raise InvalidInputError(f"p is {p!r}; a probability above 0 and below 1 is accepted")
        for site in self.source.sites:
            if site.raw:
                raise InvalidInputError(
                    f"p is {p:g}, and {site.name} draws {site.kind} numbers of the network's own; no other p than its "
                    "own is accepted"
                )
        return replace(self, source=MaskSource([replace(site, p=p) for site in self.source.sites]))

    def at(self, sizes: Sizes) -> "Prepared":
        """The same for inputs of these sizes alone, where they may differ."""
        assert self.sizing is not None
        sites = self.sizing.sites_at(self.source.sites, sizes)
        shapes = self.sizing.shapes_at(sizes)
        baseline = runtime_at(self.baseline, sites if self.baseline is self.runtime else ())
        grown = math.prod(sizes[name] / base for name, base in self.sizing.base.items())
        return replace(
            self,
            source=MaskSource(sites),
            runtime=runtime_at(self.runtime, sites),
            baseline=baseline,
            inputs=tuple(replace(spec, shape=shape) for spec, shape in zip(self.inputs, shapes, strict=True)),
            # Attention takes the square of a size.
            outline=replace(self.outline, suffix_bytes=round(self.outline.suffix_bytes * max(grown, grown**2))),
            sizing=None,
            others=(),
        )


@dataclass(frozen=True)
class Passed:
    """A candidate that passed its checks.

    Attributes:
        candidate: which.
        runtime: it, as it runs.
        checks: what it passed.
        reason: why none before it did, and why there are no others before it; None where it is the first.
    """

    candidate: Candidate
    runtime: Runtime
    checks: tuple[Check, ...]
    reason: str | None


@refusing("the network fails while it is prepared")
def prepare(reading: Reading, subject: Subject, target: Target) -> Prepared:
    """Find the fastest way to run a network that passes its checks.

    Args:
        reading: what its outputs mean, as far as that is given.
        subject: the network, and what it is checked against.
        target: where to run it.

    Raises:
        UnsupportedModelError: it cannot be run.
        VerificationError: it failed a check.
    """
    arrays, source = subject.arrays, MaskSource(subject.sites)
    rows = len(arrays[0])
    outputs = run_pairs(subject.eager, arrays, source.keep_everything(rows))
    if len(outputs) > 1:
        check_count(reading, [out.shape for out in outputs], subject.returned(), rows)
    _check_rows_come_first(rows, outputs)
    if any(rows in out.shape[1:] for out in outputs):  # another dimension may pass for that of the rows
        fewer = run_pairs(subject.eager, tuple(x[:_FEWER_ROWS] for x in arrays), source.keep_everything(_FEWER_ROWS))
        _check_rows_come_first(_FEWER_ROWS, fewer)
    _check_numbers(outputs)
    wanted = subject.eval_outputs()
    kept = source.baseline(rows)
    first = check_network(subject.plain, kept, arrays, wanted)
    if not first.passed and subject.advice:
        first = replace(first, detail=f"{first.detail}; {subject.advice}")
    of_network = [first]
    raise_if_failed(of_network)
    begin("running it for what programs are compared with")
    reference = take_reference(subject.eager, source, arrays, wanted, subject.tolerance)

    def run(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return run_pairs(subject.plain, inputs, kept)

    reading = settle(reading, subject.evidence, arrays, [wanted, *reference.under_masks], run, subject.eval_outputs)
    inputs = _with_ranges(subject)
    raise_if_failed([_check_readable(reading, wanted)])
    others = () if subject.sizing is None else tuple(_sized(subject, sizes) for sizes in subject.sizing.tried())
    plain = subject.baseline_programs(target) if source.has_raw_sites else None
    try:
        raise_if_failed([Check(ROWS, not subject.mixes, "with nothing dropped it is another alone than beside others")])
        chosen, baseline = choose(
            subject.programs(target), plain, target, source, reference, subject.trials, subject.sizing, others
        )
    except VerificationError as error:
        if subject.mixers is not None and ROWS in str(error):
            raise VerificationError(f"{error}; {subject.mixers}") from error
        raise
    of_network += subject.own_checks()
    raise_if_failed(of_network)
    outline = chosen.candidate.program.outline
    program = Program(
        strategy=chosen.candidate.program.strategy,
        runtime=chosen.candidate.kind.name,
        device=chosen.runtime.device,
        reason=chosen.reason,
        frontier=outline.frontier,
        prefix_operations=outline.prefix_operations,
        suffix_operations=outline.suffix_operations,
        cost=chosen.candidate.program.cost(),
        checks=(*of_network, *chosen.checks),
    )
    return Prepared(
        reading=reading,
        source=source,
        off=subject.off,
        inputs=inputs,
        runtime=chosen.runtime,
        baseline=baseline.runtime,
        graphs=chosen.candidate.graphs,
        baseline_graphs=baseline.candidate.graphs,
        program=program,
        outline=outline,
        reference=reference,
        network_checks=tuple(of_network),
        sizing=subject.sizing,
        others=others,
    )


def _with_ranges(subject: Subject) -> tuple[InputSpec, ...]:
    """Its inputs with the whole numbers that each takes; where sizes differ from row to row, at all that are tried."""
    sizing, found = subject.sizing, list[tuple[InputSpec, ...]]()
    for place in [subject] if sizing is None else [subject, *(subject.at(sizes) for sizes in sizing.tried())]:
        kept = MaskSource(place.sites).baseline(1)
        run = partial(run_pairs, place.plain, masks=kept)
        found.append(with_ranges(subject.inputs, place.arrays, run, found[0] if found else None))
    # A length, say, may be larger where there are more steps.
    return tuple(
        replace(
            spec,
            lowest=spec.lowest if len({other.lowest for other in others}) == 1 else None,
            highest=spec.highest if len({other.highest for other in others}) == 1 else None,
        )
        for spec, *others in zip(found[0], *found, strict=True)
    )


def _sized(subject: Subject, sizes: dict[str, int]) -> Sized:
    """What a network answers for rows of some sizes; there too nothing but dropout may tell it from its eval mode."""
    other = subject.at(sizes)
    source, rows = MaskSource(other.sites), len(other.arrays[0])
    kept = source.baseline(rows)
    with refusing(f"the network does not run at {told(sizes)}", "sizes at which it does are accepted"):
        wanted = other.eval_outputs()
        check = check_network(other.plain, kept, other.arrays, wanted)
        raise_if_failed([replace(check, name=f"at {told(sizes)} {check.name}")])
        return Sized(sizes, take_reference(other.eager, source, other.arrays, wanted, other.tolerance))


def choose(
    programs: Iterable[Runnable | Refusal],
    baseline_programs: Iterable[Runnable | Refusal] | None,
    target: Target,
    source: MaskSource,
    reference: Reference,
    trials: Sequence[Trial] = (),
    sizing: Sizing | None = None,
    others: Sequence[Sized] = (),
) -> tuple[Passed, Passed]:
    """The first way to run a network that passes its checks, and the first to run it with nothing dropped.

    Args:
        programs: the network's, under masks; as `candidates` takes them.
        baseline_programs: those with nothing dropped; None where there are masks that keep everything.
        target: where they are to run.
        source: draws the masks.
        reference: what the network itself answers.
        trials: and what to rows unlike the examples.
        sizing: which sizes of the inputs may differ, if any.
        others: what it answers at some other sizes.

    Raises:
        UnsupportedModelError: the last could not be built; or there is none.
        VerificationError: the last failed a check.
    """
    baseline: Passed | None = None
    if baseline_programs is not None:

        def check_plain(found: Runtime) -> list[Check]:
            checks = [check_baseline(found, source, reference)]
            raise_if_failed(checks)
            return checks

        baseline = _first_that_passes(baseline_programs, target, check_plain)

    def draw(pairs: int) -> Masks:
        return source.draw([0] * pairs, range(pairs), 0, 1)

    def check(found: Runtime) -> list[Check]:
        begin("checking the program")
        measure(found, reference.inputs, draw)
        checks = check_program(found, baseline.runtime if baseline else found, source, reference, trials)
        for other in others:
            assert sizing is not None
            sites = sizing.sites_at(source.sites, other.sizes)
            there = runtime_at(found, sites)
            plain = baseline.runtime if baseline else there
            try:
                _, under_masks, *_ = check_program(there, plain, MaskSource(sites), other.reference, elsewhere=True)
                checks.append(Check(f"all of this holds at {told(other.sizes)} too", True, under_masks.detail))
            except VerificationError as error:
                raise VerificationError(f"at {told(other.sizes)} {error}") from error
            except Exception as error:  # whatever a program raises that holds at one size alone
                raise UnsupportedModelError(f"it does not run at {told(other.sizes)}: {described(error)}") from error
        return checks

    chosen = _first_that_passes(programs, target, check)
    return chosen, baseline or chosen


def _first_that_passes(
    programs: Iterable[Runnable | Refusal], target: Target, check: Callable[[Runtime], list[Check]]
) -> Passed:
    """The first way to run one of some programs on a target that passes `check`, which raises VerificationError."""
    reasons: list[str] = []
    failure: EngineError | None = None
    for candidate in candidates(programs, target):
        if isinstance(candidate, Refusal):
            reasons.append(candidate.reason)
            continue
        try:
            runtime = candidate.build()
            checks = tuple(check(runtime))
            return Passed(candidate, runtime, checks, "; ".join(reasons) or None)
        except MemoryError:
            raise
        except VerificationError as error:
            failure = error
        except Exception as error:  # whatever a runtime raises: the next candidate does without it
            failure = UnsupportedModelError(f"{candidate.program.strategy} program: {described(error)}")
            failure.__cause__ = error
        reasons.append(str(failure))
    raise failure or UnsupportedModelError(
        f"the network cannot run on {target.runtime}: {'; '.join(dict.fromkeys(reasons))}"
    )


def _check_readable(reading: Reading, outputs: tuple[Array, ...]) -> Check:
    """Whether statistics can use what a network answers with nothing dropped, `[rows, ...]` each."""
    _, faults = deterministic(reading, [out[:, None] for out in outputs])
    wrong = np.flatnonzero(faults)
    detail = faults[wrong[0]].of(wrong[0]) if len(wrong) else "for each of the examples"
    return Check(f"a {reading.task} can be read from its outputs", not len(wrong), detail)


def _check_numbers(outputs: tuple[Array, ...]) -> None:
    for out in outputs:
        if out.dtype.kind not in "fiu":
            raise UnsupportedModelError(
                f"the network returns an output of {out.dtype}, {list(out.shape)}; one of real numbers is accepted: "
                "logits, probabilities or values"
            )


def _check_rows_come_first(rows: int, outputs: tuple[Array, ...]) -> None:
    shapes = [list(out.shape) for out in outputs]
    if any(not shape or shape[0] != rows for shape in shapes):
        raise UnsupportedModelError(
            f"for {rows} rows the network returns outputs of shape {shapes}; their first dimension must be the rows"
        )
