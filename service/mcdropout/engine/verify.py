"""The checks that a program passes before it may serve.

A `Reference` holds what the network itself answered, so that a program can be checked again wherever it is loaded, on
another machine, another version or another execution provider, without the network. Differences are relative to the
largest value of the reference: `max|a - b| / max(1, max|b|)`.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import VerificationError
from mcdropout.engine.kinds import UNIFORM
from mcdropout.engine.masks import Masks, MaskSource, bits_of
from mcdropout.engine.runtimes import Runtime, drawing_of
from mcdropout.engine.runtimes.protocol import SuffixDrawing, trim
from mcdropout.engine.sites import Site
from mcdropout.engine.trials import Trial, Variant

EVAL_TOLERANCE = 1e-5
"""How far the network with keep-everything masks may be from its eval mode."""
PROGRAM_TOLERANCE = 1e-4
"""How far an optimized program may be from the eager loop under the same masks."""
HALF_TOLERANCE = 2e-2
"""The same where the network computes in float16 or bfloat16, which hold three digits."""
_SEED = 20160619
# The passes that are looked at are chosen from so many, where units are few and so few are dropped in any one pass.
_MOST_TRIED = 64
_MOST_UNITS_TRIED = 2**22
_FEW_DROPPED = 20
_MOST_PASSES = 8
_ORDINARY_BITS = 16
# How many rows are run together, as long as that is expected to take so long, and they to hold so much, at most.
_MANY_ROWS = (64, 512, 4096)
_MOST_SECONDS, _MOST_BYTES = 0.1, 2**26
_LONG_PASS = 0.3  # seconds
_SELDOM = 0.1
_COPIES = 8  # of a row that is put beside itself
_MOST_SECONDS_BESIDE = 3.0
ROWS = "a row's answer does not depend on the rows beside it"
_ACCEPTED = {
    ROWS: "a network that answers each row by itself is accepted, without a mean, a softmax or statistics over the rows"
}
"""For some checks that fail, what would pass."""


def run_pairs(runtime: Runtime, inputs: tuple[Array, ...], masks: Masks, pairs_a_row: int = 1) -> tuple[Array, ...]:
    """The outputs `[rows * pairs_a_row, ...]` of inputs `[rows, ...]` with one mask for each pair."""
    rows = np.repeat(np.arange(len(inputs[0]), dtype=np.int64), pairs_a_row)
    return runtime.suffix(runtime.prefix(inputs), rows, masks)


@dataclass(frozen=True)
class Reference:
    """What a network itself answers for some rows.

    Attributes:
        inputs: `[rows, ...]` each.
        deterministic: its outputs with nothing dropped, `[rows, ...]` each.
        passes: passes that tell much.
        under_masks: for each of them the outputs `[rows, ...]` under its masks.
        mixed: the outputs `[5, ...]` of rows in another order, some twice, under one pass.
        keeps: whether there are masks that keep everything; else the baseline takes none.
        tolerance: how far a program may be from the network under the same masks.
    """

    inputs: tuple[Array, ...]
    deterministic: tuple[Array, ...]
    passes: tuple[int, ...]
    under_masks: tuple[tuple[Array, ...], ...]
    mixed: tuple[Array, ...]
    keeps: bool
    tolerance: float

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.inputs[0])

    def masks(self, source: MaskSource) -> list[Masks]:
        """The masks of its passes."""
        return [_masks_of(source, self.rows, number) for number in self.passes]


def take_reference(
    eager: Runtime,
    source: MaskSource,
    inputs: tuple[Array, ...],
    deterministic: tuple[Array, ...],
    tolerance: float,
) -> Reference:
    """Run the network itself, `eager`, for what programs are to be checked against.

    Args:
        eager: the network under masks.
        source: draws them.
        inputs: `[rows, ...]` each.
        deterministic: its outputs with nothing dropped.
        tolerance: how far a program may be from it.

    Raises:
        VerificationError: its outputs differ in shape from pass to pass.
    """
    rows = len(inputs[0])
    passes = telling_passes(source, rows)
    answers = tuple(run_pairs(eager, inputs, _masks_of(source, rows, number)) for number in passes)
    if not _differ(answers):  # of a network that makes decisions, few passes may decide otherwise
        for number in range(max(passes) + 1, _MOST_TRIED):
            another = run_pairs(eager, inputs, _masks_of(source, rows, number))
            if _differ((answers[0], another)):
                passes, answers = (*passes, number), (*answers, another)
                break
    shapes = {tuple(out.shape for out in outputs) for outputs in answers}
    if len(shapes) > 1:
        shown = " and ".join(str([list(shape) for shape in found]) for found in sorted(shapes))
        raise_if_failed([Check("outputs have the same shape in every pass", False, f"shapes {shown}")])
    return Reference(
        inputs,
        deterministic,
        passes,
        answers,
        _run_mixed(eager, source, inputs),
        not source.has_raw_sites,
        tolerance,
    )


def check_network(
    eager: Runtime,
    masks: Masks,
    inputs: tuple[Array, ...],
    wanted: tuple[Array, ...],
    tolerance: float = EVAL_TOLERANCE,
) -> Check:
    """Whether nothing but dropout tells a network under masks from its eval mode.

    Args:
        eager: the network with nothing dropped.
        masks: those that keep everything; none where there are no such masks.
        inputs: `[rows, ...]` each.
        wanted: its outputs in eval mode, `[rows, ...]` each.
        tolerance: how far it may be from them.
    """
    how = "with keep-everything masks" if masks else "with nothing dropped"
    return close(f"the network {how} equals its eval mode", run_pairs(eager, inputs, masks), wanted, tolerance)


def check_baseline(baseline: Runtime, source: MaskSource, reference: Reference) -> Check:
    """Whether a program with nothing dropped equals the network's eval mode."""
    how = "with keep-everything masks" if reference.keeps else "with nothing dropped"
    masks = source.keep_everything(reference.rows) if reference.keeps else []
    found = run_pairs(baseline, reference.inputs, masks)
    return close(f"the program {how} equals eval mode", found, reference.deterministic, reference.tolerance)


def check_program(
    runtime: Runtime,
    baseline: Runtime,
    source: MaskSource,
    reference: Reference,
    trials: Sequence[Trial] = (),
    *,
    elsewhere: bool = False,
) -> list[Check]:
    """Run every check of a program.

    Args:
        runtime: what is going to serve.
        baseline: what is going to serve with nothing dropped.
        source: draws the masks.
        reference: what the network itself answers.
        trials: and what to rows unlike the examples.
        elsewhere: whether it has passed them all at other sizes: where a pass takes long, those that need many then
            make do with a few.

    Raises:
        VerificationError: naming the checks that failed, and what they measured.
    """
    inputs, drawn = reference.inputs, reference.masks(source)
    passes = [run_pairs(runtime, inputs, masks) for masks in drawn]
    start = time.perf_counter()
    again = run_pairs(runtime, inputs, drawn[0])
    seconds = time.perf_counter() - start
    briefly = elsewhere and seconds > _LONG_PASS
    differing = _differ(passes)
    checks = [
        check_baseline(baseline, source, reference),
        _check_outputs(runtime, source, reference, passes, trials),
        Check("two passes with different masks differ", differing, "they do" if differing else _identical(source)),
        close("two passes with the same masks agree", again, passes[0], 0.0),
        _check_one_row(runtime, source, reference, drawn[0], passes[0])
        if briefly
        else _check_rows(runtime, source, reference, drawn, passes, seconds),
    ]
    if (drawing := drawing_of(runtime)) and not briefly:
        checks.append(_check_drawing(runtime, drawing, source, reference))
    raise_if_failed(checks)
    return checks


def _differ(passes: Sequence[tuple[Array, ...]]) -> bool:
    """Whether a pass has other outputs than the first."""
    return any(not np.array_equal(a, b) for later in passes[1:] for a, b in zip(passes[0], later, strict=True))


def _identical(source: MaskSource) -> str:
    always = [site.name for site in source.sites if site.p == 1.0]
    if not always:
        return "they are identical"
    where = ", ".join(always)
    return f"they are identical: p is 1 at {where}, which drops everything in every pass; a p below 1 is accepted"


def _check_outputs(
    runtime: Runtime,
    source: MaskSource,
    reference: Reference,
    passes: Sequence[tuple[Array, ...]],
    trials: Sequence[Trial],
) -> Check:
    """Whether a program answers what the network does, in its passes and in trials."""
    name = "the program equals the eager loop under the same masks"
    found = _one_after_another([*passes, _run_mixed(runtime, source, reference.inputs)])
    wanted = _one_after_another([*reference.under_masks, reference.mixed])
    check = close(name, found, wanted, reference.tolerance)
    for trial in trials:
        if not check.passed:
            break
        masks = _masks_of(source, len(trial.inputs[0]), trial.number)
        tried = close(name, run_pairs(runtime, trial.inputs, masks), trial.outputs, reference.tolerance)
        if not tried.passed:
            check = replace(tried, detail=f"with {trial.name}: {tried.detail}")
    return check


def _check_one_row(
    runtime: Runtime, source: MaskSource, reference: Reference, masks: Masks, beside: tuple[Array, ...]
) -> Check:
    """Whether the last row is answered alone as it is beside the others."""
    last = slice(-1, None)
    alone = run_pairs(runtime, tuple(x[last] for x in reference.inputs), _masks_for(source, masks, last))
    return close(ROWS, alone, tuple(out[-1:] for out in beside), reference.tolerance)


def _check_rows(
    runtime: Runtime,
    source: MaskSource,
    reference: Reference,
    drawn: Sequence[Masks],
    passes: Sequence[tuple[Array, ...]],
    seconds: float,
) -> Check:
    """Whether rows are answered alone, and beside many as far as that does not take long, as they are beside few.

    What looks at how many rows there are may do otherwise from some number on. `passes` are the answers beside few
    under the masks `drawn`, of which one took so many `seconds`.
    """
    inputs, number = reference.inputs, reference.passes[0]
    alone = [each_alone(runtime, source, inputs, masks) for masks in drawn]
    check = close(ROWS, _one_after_another(alone), _one_after_another(passes), reference.tolerance)
    if not check.passed:
        return check
    rows = len(inputs[0])
    row_bytes = sum(x.nbytes for x in inputs) // rows
    count = rows
    for many in _MANY_ROWS:
        if seconds * many / count > _MOST_SECONDS or many * row_bytes > _MOST_BYTES:
            break
        taken = np.arange(many, dtype=np.int64) % rows
        masks = _telling(source.sites).draw([_SEED] * many, taken, number, 1)
        trim(runtime)  # requests hardly ever take so much memory
        start = time.perf_counter()
        found = run_pairs(runtime, tuple(x[taken] for x in inputs), masks)
        count, seconds = many, time.perf_counter() - start
        beside = close(ROWS, tuple(out[taken] for out in passes[0]), found, reference.tolerance)
        if not beside.passed:
            return replace(beside, detail=f"beside {many - 1} others: {beside.detail}")
    return check


def _check_drawing(runtime: Runtime, drawing: SuffixDrawing, source: MaskSource, reference: Reference) -> Check:
    """Whether a runtime draws the masks that are drawn for others; each row has its own passes, one or more."""
    rows = reference.rows
    counts = 1 + np.arange(rows) % 3
    taken = np.repeat(np.arange(rows, dtype=np.int64), counts)
    frontier = runtime.prefix(reference.inputs)
    found, wanted = [], []
    for number in reference.passes:
        masks = source.undrawn([_SEED] * rows, range(rows), number + np.arange(rows), counts)
        found.append(drawing(frontier, taken, masks))
        wanted.append(runtime.suffix(frontier, taken, list(masks.draw())))
    name = "masks that are drawn while it runs are those drawn before"
    return close(name, _one_after_another(found), _one_after_another(wanted), 0.0)


def raise_if_failed(checks: Sequence[Check]) -> None:
    """Raise VerificationError for the checks that failed."""
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.passed]
    accepted = [_ACCEPTED[check.name] for check in checks if not check.passed and check.name in _ACCEPTED]
    if failed:
        raise VerificationError(
            "the network failed its checks and is not served: not so that " + "; ".join([*failed, *accepted])
        )


def telling_passes(source: MaskSource, rows: int) -> tuple[int, ...]:
    """Passes that tell much: where few units are dropped, those in which some are and others not."""
    units = rows * sum(site.units for site in source.sites)
    tried = max(3, min(_MOST_TRIED, _MOST_UNITS_TRIED // max(1, units)))
    drawn = [_masks_of(source, rows, number) for number in range(tried)]
    chosen = {0: None, 1: None}
    for index, site in enumerate(_telling(source.sites).sites):
        masks = [masks[index] for masks in drawn]
        if site.p is None and site.kind == UNIFORM:
            chosen[int(np.argmin([mask.min() for mask in masks]))] = None
            chosen[int(np.argmax([mask.max() for mask in masks]))] = None
        elif site.p is not None and rows * site.units * min(site.p, 1.0 - site.p) < _FEW_DROPPED:
            chosen[int(np.argmax([np.var(mask != np.float32(site.kept[0])) for mask in masks]))] = None
    return tuple(chosen)[:_MOST_PASSES]


def telling_masks(source: MaskSource, rows: int) -> list[Masks]:
    """The masks of passes that tell much, `[rows, *mask_shape]` each."""
    return [_masks_of(source, rows, number) for number in telling_passes(source, rows)]


def _masks_of(source: MaskSource, rows: int, number: int) -> Masks:
    return _telling(source.sites).draw([_SEED] * rows, range(rows), number, 1)


@functools.lru_cache(maxsize=8)
def _telling(sites: tuple[Site, ...]) -> MaskSource:
    """Draws masks that tell much: of a p so near 0 or 1 that 16 bits do not hold it, hardly a pass would; a half does.

    What a mask does is the same whatever the probability that it was drawn with.
    """
    return _by_halves(sites, [site.p is not None and bits_of(site.p) > _ORDINARY_BITS for site in sites])


def dropping_often(source: MaskSource) -> MaskSource:
    """Draws masks for the same sites, of which those that hardly ever drop, or hardly ever keep, do so half the time.

    Among a few passes in which nothing is dropped, it does not show that they influence one another.
    """
    seldom = [site.p is not None and min(site.p, 1.0 - site.p) < _SELDOM for site in source.sites]
    return _by_halves(source.sites, seldom)


def _by_halves(sites: Sequence[Site], which: Sequence[bool]) -> MaskSource:
    """Draws masks for sites, some of which drop half of their units."""
    return MaskSource([replace(site, p=0.5) if it else site for site, it in zip(sites, which, strict=True)])


def _run_mixed(runtime: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """As in service: several passes of a row, and rows in any order."""
    rows = len(inputs[0])
    order = np.array([rows - 1, 0, 0, rows // 2, rows - 1], np.int64)
    return runtime.suffix(runtime.prefix(inputs), order, _masks_of(source, len(order), 0))


def _masks_for(source: MaskSource, masks: Masks, rows: slice | npt.NDArray[np.int64]) -> Masks:
    """The masks of some of the rows."""
    return [mask[rows] if site.scope == "row" else mask for site, mask in zip(source.sites, masks, strict=True)]


def each_alone(runtime: Runtime, source: MaskSource, inputs: tuple[Array, ...], masks: Masks) -> tuple[Array, ...]:
    """The outputs of every row run without the others."""
    alone: list[tuple[Array, ...]] = []
    for row in range(len(inputs[0])):
        one = slice(row, row + 1)
        alone.append(run_pairs(runtime, tuple(x[one] for x in inputs), _masks_for(source, masks, one)))
    return tuple(np.concatenate(outputs) for outputs in zip(*alone, strict=True))


def tried(eager: Runtime, source: MaskSource, variant: Variant, number: int, tolerance: float) -> tuple[Trial, Check]:
    """What a network answers to a variant of the examples, and whether a row alone is answered as beside the others.

    Args:
        eager: the network under masks.
        source: draws them.
        variant: the rows.
        number: of the pass whose masks they get.
        tolerance: how far the answers may be apart.

    Raises:
        ArithmeticError: an answer is not finite, so that it says nothing.
    """
    masks = _masks_of(source, len(variant.inputs[0]), number)
    together = run_pairs(eager, variant.inputs, masks)
    alone = each_alone(eager, source, variant.inputs, masks)
    if not all(np.isfinite(out).all() for out in (*together, *alone)):
        raise ArithmeticError(f"with {variant.name} an answer is NaN or infinite")
    check = close(ROWS, alone, together, tolerance)
    return (
        Trial(variant.name, variant.inputs, number, together),
        replace(check, detail=f"with {variant.name}: {check.detail}"),
    )


def tried_beside_equal_rows(eager: Runtime, source: MaskSource, inputs: tuple[Array, ...], tolerance: float) -> Check:
    """Whether copies of a row under different masks are answered as each alone, by themselves and with others among
    them.

    So stand the passes of a row in a batch. A network that takes the mean over equal rows, or answers all as it does
    the first, would mix them, though between unlike rows it does not show. Of a network that takes long, that is seen
    under the masks that tell most.

    Args:
        eager: the network under masks.
        source: draws them.
        inputs: `[rows, ...]` each.
        tolerance: how far the answers may be apart.
    """
    taken = np.concatenate([np.zeros(_COPIES, np.int64), np.arange(_COPIES // 2)[::-1] % len(inputs[0])])
    pairs = np.arange(len(taken))
    copies, among_others = pairs[:_COPIES], pairs.reshape(-1, _COPIES // 2).T.ravel()
    found: list[tuple[Array, ...]] = []
    wanted: list[tuple[Array, ...]] = []
    finish = time.perf_counter() + _MOST_SECONDS_BESIDE
    for masks in reversed(telling_masks(source, len(taken))):
        if found and time.perf_counter() > finish:
            break
        alone = each_alone(eager, source, tuple(x[taken] for x in inputs), masks)
        for some in (copies, among_others):
            own = _masks_for(source, masks, some)
            found.append(run_pairs(eager, tuple(x[taken[some]] for x in inputs), own))
            wanted.append(tuple(out[some] for out in alone))
    check = close(ROWS, _one_after_another(found), _one_after_another(wanted), tolerance)
    return replace(check, detail=f"beside equal rows: {check.detail}")


def _one_after_another(runs: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(outputs) for outputs in zip(*runs, strict=True))


def close(name: str, found: tuple[Array, ...], wanted: tuple[Array, ...], tolerance: float) -> Check:
    """Whether outputs are those wanted, with -infinity in the same places."""
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return Check(name, False, f"shapes {[x.shape for x in found]} and {[x.shape for x in wanted]}")
    if not all((x < np.inf).all() for x in (*found, *wanted)):  # NaN is not either
        return Check(name, False, "an output is NaN or infinite")
    # The logit of what is impossible: what else there is of a network that may not answer it, its task says.
    impossible = [x == -np.inf for x in wanted]
    if not all(np.array_equal(a == -np.inf, b) for a, b in zip(found, impossible, strict=True)):
        return Check(name, False, "an output is -infinity where it ought not to be, or is not where it ought to")
    pairs = [(a[~where], b[~where]) for a, b, where in zip(found, wanted, impossible, strict=True)]
    worst = max(
        float(np.abs(a.astype(np.float64) - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0)))
        for a, b in pairs
    )
    return Check(name, worst <= tolerance, f"difference {worst:.1e}, tolerance {tolerance:g}")
