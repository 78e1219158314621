"""The checks that a program passes before it may serve.

Differences are relative to the largest value of the reference: `max|a - b| / max(1, max|b|)`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.engine.errors import VerificationError
from service.engine.masks import Masks, MaskSource
from service.engine.network import Network, copy_of, to_array
from service.engine.runtimes import Array, Runtime
from service.engine.sites import UNIFORM

EVAL_TOLERANCE = 1e-5
"""How far the network with keep-everything masks may be from its eval mode."""
PROGRAM_TOLERANCE = 1e-4
"""How far an optimized program may be from the eager loop under the same masks."""
_SEED = 20160619
# The passes that are looked at are chosen from so many, where units are few and so few are dropped in any one pass.
_MOST_TRIED = 64
_MOST_UNITS_TRIED = 2**22
_FEW_DROPPED = 20
_MOST_PASSES = 8


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what holds, as a sentence.
        passed: whether it does.
        detail: what was measured.
    """

    name: str
    passed: bool
    detail: str


def unlike_rows(x: Array, given: int) -> Array:
    """Make the rows of `x` after the first `given`, which repeat them, unlike them, and rows that equal one before.

    Between equal rows it does not show that they influence each other. Numbers are scaled by 0.5 to 1, so that they
    keep their sign and size (a row of zeros becomes 0 to 1); whole numbers of a row change places.
    """
    x, generator = x.copy(), np.random.default_rng(_SEED)
    for row in range(len(x)):
        if row < given and not any(np.array_equal(x[row], x[earlier]) for earlier in range(row)):
            continue
        shape = x[row].shape
        if not np.issubdtype(x.dtype, np.floating):
            x[row] = generator.permutation(x[row].ravel()).reshape(shape)
        elif x[row].any():
            x[row] *= generator.uniform(0.5, 1.0, shape).astype(x.dtype)
        else:
            x[row] = generator.random(shape)
    return x


def run_pairs(runtime: Runtime, inputs: tuple[Array, ...], masks: Masks, pairs_a_row: int = 1) -> tuple[Array, ...]:
    """The outputs `[rows * pairs_a_row, ...]` of inputs `[rows, ...]` with one mask for each pair."""
    rows = np.repeat(np.arange(len(inputs[0]), dtype=np.int64), pairs_a_row)
    return runtime.suffix(runtime.prefix(inputs), rows, masks)


@dataclass(frozen=True)
class Deterministic:
    """How the network is run with nothing dropped, and the same thing plainly.

    Attributes:
        runtime: what is going to serve `mc=0`.
        eager: the module itself.
        masks: what both are given: those that keep everything, or none where the network has raw sites.
    """

    runtime: Runtime
    eager: Runtime
    masks: Masks


def verify_deterministic(network: Network, way: Deterministic, inputs: tuple[Array, ...]) -> list[Check]:
    """Check that nothing but dropout distinguishes the network from its eval mode.

    Args:
        network: the masked copy.
        way: how it is run with nothing dropped.
        inputs: example inputs, `[rows, ...]` each.
    """
    reference = tuple(to_array(out) for out in network.eval_outputs([torch.from_numpy(x) for x in inputs]))
    how = "with nothing dropped" if network.has_raw_sites else "with keep-everything masks"
    eager = run_pairs(way.eager, inputs, way.masks)
    first = _close(f"the network {how} equals its eval mode", eager, reference, EVAL_TOLERANCE)
    padded = [path for path, part in network.origin.named_modules() if getattr(part, "use_nested_tensor", False)]
    if not first.passed and padded:
        hint = (
            f"{padded[0] or 'the network'} writes 0 at padded places in eval mode; enable_nested_tensor=False mends it"
        )
        first = Check(first.name, False, f"{first.detail}; {hint}")
    program = run_pairs(way.runtime, inputs, way.masks)
    return [first, _close(f"the program {how} equals eval mode", program, reference, PROGRAM_TOLERANCE)]


def verify(
    network: Network,
    runtime: Runtime,
    eager: Runtime,
    source: MaskSource,
    inputs: tuple[Array, ...],
    way: Deterministic,
) -> list[Check]:
    """Run every check.

    Args:
        network: the masked copy of the user's module.
        runtime: what is going to serve.
        eager: the masked copy, run as it is.
        source: draws the masks.
        inputs: example inputs, `[rows, ...]` each, two rows at least.
        way: how the network is run with nothing dropped.

    Raises:
        VerificationError: naming the checks that failed, and what they measured.
    """
    module = network.origin
    buffers = {name: value.clone() for name, value in module.state_dict().items()}
    checks = [
        *verify_deterministic(network, way, inputs),
        *_under_masks(runtime, eager, source, inputs),
        _stayed_in_eval(network),
    ]
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, buffers[name])]
    as_copied = copy_of(module)
    as_copied.eval()
    masked = network.module.state_dict()
    moved += [
        name for name, value in as_copied.state_dict().items() if not torch.equal(value.cpu(), masked[name].cpu())
    ]
    checks.append(Check("no parameter and no buffer moved by a bit", not moved, f"moved: {', '.join(moved) or 'none'}"))
    raise_if_failed(checks)
    return checks


def raise_if_failed(checks: Sequence[Check]) -> None:
    """Raise VerificationError for the checks that failed."""
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.passed]
    if failed:
        raise VerificationError("the network failed its checks and is not served: not so that " + "; ".join(failed))


def dropout_mixes_rows(network: Network, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> bool:
    """Whether a row's outputs change with the rows beside it under masks, but not in eval mode.

    So they do where a dropout is scaled by what it left of the whole batch. Each row then has an answer of its own when
    it is run alone. Where eval mode mixes rows too, none has, and the checks will say so.
    """
    for masks in _telling_masks(source, len(inputs[0])):
        together = run_pairs(eager, inputs, masks)
        if not _close("", _each_alone(eager, source, inputs, masks), together, PROGRAM_TOLERANCE).passed:
            break
    else:
        return False
    tensors = [torch.from_numpy(x) for x in inputs]
    rows = [network.eval_outputs([x[row : row + 1] for x in tensors]) for row in range(len(inputs[0]))]
    alone = tuple(to_array(torch.cat(outputs)) for outputs in zip(*rows, strict=True))
    beside = tuple(to_array(out) for out in network.eval_outputs(tensors))
    return _close("", alone, beside, EVAL_TOLERANCE).passed


def _telling_masks(source: MaskSource, rows: int) -> list[Masks]:
    """The masks of some passes that tell much: where few units are dropped, those in which some are and others not."""
    units = rows * sum(site.units for site in source.sites)
    tried = max(3, min(_MOST_TRIED, _MOST_UNITS_TRIED // max(1, units)))
    drawn = [source.draw([_SEED] * rows, range(rows), number, 1) for number in range(tried)]
    chosen = {0: None, 1: None}
    for index, site in enumerate(source.sites):
        masks = [masks[index] for masks in drawn]
        if site.p is None and site.kind == UNIFORM:
            chosen[int(np.argmin([mask.min() for mask in masks]))] = None
            chosen[int(np.argmax([mask.max() for mask in masks]))] = None
        elif site.p is not None and rows * site.units * min(site.p, 1.0 - site.p) < _FEW_DROPPED:
            chosen[int(np.argmax([np.var(mask != np.float32(site.kept[0])) for mask in masks]))] = None
    return [drawn[number] for number in list(chosen)[:_MOST_PASSES]]


def _each_alone(runtime: Runtime, source: MaskSource, inputs: tuple[Array, ...], masks: Masks) -> tuple[Array, ...]:
    """The outputs of every row run without the others."""
    alone: list[tuple[Array, ...]] = []
    for row in range(len(inputs[0])):
        own = [
            mask[row : row + 1] if site.scope == "row" else mask for site, mask in zip(source.sites, masks, strict=True)
        ]
        alone.append(run_pairs(runtime, tuple(x[row : row + 1] for x in inputs), own))
    return tuple(np.concatenate(outputs) for outputs in zip(*alone, strict=True))


def _under_masks(runtime: Runtime, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> list[Check]:
    rows = len(inputs[0])
    drawn = _telling_masks(source, rows)
    loop = [run_pairs(eager, inputs, masks) for masks in drawn]
    shapes = {tuple(out.shape for out in outputs) for outputs in loop}
    if len(shapes) > 1:
        told = " and ".join(str([list(shape) for shape in found]) for found in sorted(shapes))
        return [Check("outputs have the same shape in every pass", False, f"shapes {told}")]
    passes = [run_pairs(runtime, inputs, masks) for masks in drawn]
    # As in service: several passes of a row, and rows in any order.
    order = np.array([rows - 1, 0, 0, rows // 2, rows - 1], np.int64)
    masks = source.draw([_SEED] * len(order), range(len(order)), 0, 1)
    mixed, mixed_loop = (which.suffix(which.prefix(inputs), order, masks) for which in (runtime, eager))
    again = run_pairs(runtime, inputs, drawn[0])
    differing = any(not np.array_equal(a, b) for later in passes[1:] for a, b in zip(passes[0], later, strict=True))
    alone = [_each_alone(runtime, source, inputs, masks) for masks in drawn]
    return [
        _close(
            "the program equals the eager loop under the same masks",
            _one_after_another([*passes, mixed]),
            _one_after_another([*loop, mixed_loop]),
            PROGRAM_TOLERANCE,
        ),
        Check("two passes with different masks differ", differing, "they do" if differing else "they are identical"),
        _close("two passes with the same masks agree", again, passes[0], 0.0),
        _close(
            "a row's answer does not depend on the rows beside it",
            _one_after_another(alone),
            _one_after_another(passes),
            PROGRAM_TOLERANCE,
        ),
    ]


def _one_after_another(runs: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(outputs) for outputs in zip(*runs, strict=True))


def _close(name: str, found: tuple[Array, ...], wanted: tuple[Array, ...], tolerance: float) -> Check:
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return Check(name, False, f"shapes {[x.shape for x in found]} and {[x.shape for x in wanted]}")
    if not all(np.isfinite(x).all() for x in (*found, *wanted)):
        return Check(name, False, "an output is NaN or infinite")
    worst = max(
        float(np.abs(a.astype(np.float64) - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0)))
        for a, b in zip(found, wanted, strict=True)
    )
    return Check(name, worst <= tolerance, f"difference {worst:.1e}, tolerance {tolerance:g}")


def _stayed_in_eval(network: Network) -> Check:
    training = {path for path, part in network.module.named_modules() if part.training}
    astray, silent = training - network.awake, network.awake - training
    detail = f"out of eval mode: {_listed(training)}"
    if astray:
        detail = f"out of eval mode without a site: {_listed(astray)}"
    if silent:
        detail = f"in eval mode, where their dropout calls are gone: {_listed(silent)}"
    return Check("modules without a site stay in eval mode", not astray and not silent, detail)


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(sorted(path or "(network)" for path in paths)) or "none"
