"""The checks that a program passes before it may serve.

Differences are relative to the largest value of the reference: `max|a - b| / max(1, max|b|)`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from service.engine.errors import VerificationError
from service.engine.masks import Masks, MaskSource
from service.engine.runtimes import Array, Runtime
from service.engine.sites import Network

EVAL_TOLERANCE = 1e-5
"""How far the network with keep-everything masks may be from its eval mode."""
PROGRAM_TOLERANCE = 1e-4
"""How far an optimized program may be from the eager loop under the same masks."""
_SEED = 20160619
_PASSES = 3


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
    """Make the rows of `x` after the first `given`, which repeat them, unlike them.

    Between equal rows it does not show that they influence each other. Numbers are scaled by 0.5 to 1, so that they
    keep their sign and size (a row of zeros becomes 0 to 1); whole numbers are taken from the whole example.
    """
    x, generator = x.copy(), np.random.default_rng(_SEED)
    for row in range(given, len(x)):
        shape = x[row].shape
        if not np.issubdtype(x.dtype, np.floating):
            x[row] = generator.choice(x[:given].ravel(), shape)
        elif x[row].any():
            x[row] *= generator.uniform(0.5, 1.0, shape).astype(x.dtype)
        else:
            x[row] = generator.random(shape)
    return x


def run_pairs(runtime: Runtime, inputs: tuple[Array, ...], masks: Masks, pairs_a_row: int = 1) -> tuple[Array, ...]:
    """The outputs `[rows * pairs_a_row, ...]` of inputs `[rows, ...]` with one mask for each pair."""
    rows = np.repeat(np.arange(len(inputs[0]), dtype=np.int64), pairs_a_row)
    return runtime.suffix(runtime.prefix(inputs), rows, masks)


def verify(
    module: nn.Module, network: Network, runtime: Runtime, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]
) -> list[Check]:
    """Run every check.

    Args:
        module: the user's module, as it was given.
        network: its masked copy.
        runtime: what is going to serve.
        eager: the masked copy, run as it is.
        source: draws the masks.
        inputs: example inputs, `[rows, ...]` each, two rows at least.

    Raises:
        VerificationError: naming the checks that failed, and what they measured.
    """
    rows = len(inputs[0])
    keep = source.keep_everything(rows)
    buffers = {name: value.clone() for name, value in module.state_dict().items()}
    reference = _eval_outputs(module, network, inputs)
    checks = [
        _close(
            "the network with keep-everything masks equals its eval mode",
            run_pairs(eager, inputs, keep),
            reference,
            EVAL_TOLERANCE,
        ),
        _close(
            "the program with keep-everything masks equals eval mode",
            run_pairs(runtime, inputs, keep),
            reference,
            PROGRAM_TOLERANCE,
        ),
        *_under_masks(runtime, eager, source, inputs),
        _stayed_in_eval(network),
    ]
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, buffers[name])]
    masked = network.module.state_dict()
    moved += [name for name, value in buffers.items() if not torch.equal(value, masked[name].to(value.device))]
    checks.append(Check("no parameter and no buffer moved by a bit", not moved, f"moved: {', '.join(moved) or 'none'}"))
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.passed]
    if failed:
        raise VerificationError("the network failed its checks and is not served: not so that " + "; ".join(failed))
    return checks


@torch.no_grad()
def _eval_outputs(module: nn.Module, network: Network, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """`module.eval()(x)`, every part's mode put back afterwards."""
    device = next((value.device for value in module.state_dict().values()), torch.device("cpu"))
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        tensors: list[Tensor] = [torch.from_numpy(x.copy()).to(device) for x in inputs]
        with network.silenced():
            output = module(*tensors)
        return tuple(out.cpu().numpy() for out in tree_leaves(output))
    finally:
        for part, mode in modes.items():
            part.training = mode


def _under_masks(runtime: Runtime, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> list[Check]:
    rows = len(inputs[0])
    seeds, positions = [_SEED] * rows, list(range(rows))
    drawn = [source.draw(seeds, positions, number, 1) for number in range(_PASSES)]
    passes = [run_pairs(runtime, inputs, masks) for masks in drawn]
    loop = [run_pairs(eager, inputs, masks) for masks in drawn]
    again = run_pairs(runtime, inputs, drawn[0])
    differing = any(not np.array_equal(a, b) for a, b in zip(passes[0], passes[1], strict=True))
    checks = [
        _close(
            "the program equals the eager loop under the same masks",
            tuple(np.stack(outputs) for outputs in zip(*passes, strict=True)),
            tuple(np.stack(outputs) for outputs in zip(*loop, strict=True)),
            PROGRAM_TOLERANCE,
        ),
        Check("two passes with different masks differ", differing, "they do" if differing else "they are identical"),
        _close("two passes with the same masks agree", again, passes[0], 0.0),
    ]
    alone: list[tuple[Array, ...]] = []
    for row in range(rows):
        masks = [
            mask[row : row + 1] if site.scope == "row" else mask
            for site, mask in zip(source.sites, drawn[0], strict=True)
        ]
        alone.append(run_pairs(runtime, tuple(x[row : row + 1] for x in inputs), masks))
    checks.append(
        _close(
            "a row's answer does not depend on the rows beside it",
            tuple(np.concatenate(outputs) for outputs in zip(*alone, strict=True)),
            passes[0],
            PROGRAM_TOLERANCE,
        )
    )
    return checks


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
    owners = {site.path for site in network.sites if not site.in_eval}
    training = [path for path, part in network.module.named_modules() if part.training]
    astray = [path or "(network)" for path in training if path not in owners]
    silent = [path or "(network)" for path in owners if path not in training]
    left = ", ".join(sorted(path or "(network)" for path in owners)) or "none"
    detail = f"out of eval mode: {left}"
    if astray:
        detail = f"out of eval mode without a site: {', '.join(astray)}"
    if silent:
        detail = f"in eval mode, where their dropout calls are gone: {', '.join(silent)}"
    return Check("modules without a site stay in eval mode", not astray and not silent, detail)
