"""Reach: whether a mask has any way to the output."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mcdropout.engine.kinds import KINDS, NEARLY_ONE, UNIFORM
from mcdropout.engine.pytorch.random_call import Call, Mask
from mcdropout.engine.pytorch.signature import Signature, same_outputs
from mcdropout.engine.pytorch.tracked import Tracked, numbers

_PROBES = (torch.nan, 0.0, 2.0, 1e6, -1e6)  # the last for thresholds that the examples are far from
Key = tuple[str, int]
Background = Callable[[Call], Tensor]


def _all(value: float) -> Background:
    return lambda call: torch.full([int(size) for size in call.mask_shape], value)


def _ones(call: Call) -> Tensor:
    return _all(NEARLY_ONE if call.kind == UNIFORM else 1.0)(call)


# What code that draws its own numbers gets meanwhile: it may drop what is probed, so that nothing shows.
_BACKGROUNDS: tuple[Background, ...] = (
    *(partial(numbers, variant=variant) for variant in range(3)),
    _all(0.0),
    _all(0.999),
    _ones,
)


def reached(tracked: Tracked, signature: Signature, inputs: Sequence[Tensor], calls: Sequence[Call]) -> set[Key]:
    """The calls whose masks the output depends on: shown by gradients, and where there are none, by trying.

    Args:
        tracked: the network, in the modes in which it serves.
        signature: how it is called.
        inputs: `[rows, ...]` each.
        calls: those in question.
    """
    if not calls:
        return set()
    leaves = {call.key: torch.ones([int(size) for size in call.mask_shape], requires_grad=True) for call in calls}

    def among(background: Background) -> Callable[[Call], Mask]:
        def answer(call: Call) -> Mask:
            if call.raw:
                return background(call)
            leaf = leaves.get(call.key)
            return None if leaf is None else _as_mask(call, leaf)

        return answer

    backgrounds = _BACKGROUNDS if any(call.raw for call in calls) else _BACKGROUNDS[:1]
    record = partial(tracked.record, signature, inputs)
    gradients = True
    try:
        plain = [record(answer=among(background), gradients=True) for background in backgrounds]
    except MemoryError:
        raise
    except Exception:  # code that changes parameters in place, say, which it may without gradients only
        gradients = False
        plain = [record(answer=among(background)) for background in backgrounds]
    made = {call.key for recording in plain for call in recording.calls}
    found = {call.key for call in calls if call.key not in made}  # layers dropped as a whole, each time
    # Numbers for the network's own code may matter only where other numbers let them: they always get theirs.
    found |= {call.key for call in calls if call.raw}
    if gradients:
        found |= _with_gradients(plain[0].outputs, leaves)

    def changes(probed: Call) -> bool:
        failed = 0
        for background, recording in zip(backgrounds, plain, strict=True):
            for probe in _PROBES:
                try:
                    outputs = record(answer=_probing(probed, probe, among(background))).outputs
                except MemoryError:
                    raise
                except Exception:  # of NaN, say, where ranges are looked for
                    failed += 1
                    continue
                if not same_outputs(outputs, recording.outputs):
                    return True
        return failed == len(backgrounds) * len(_PROBES)

    return found | {call.key for call in calls if call.key not in found and changes(call)}


def _with_gradients(outputs: tuple[Tensor, ...], leaves: dict[Key, Tensor]) -> set[Key]:
    total = [out.sum() for out in outputs if out.requires_grad]
    if not total:
        return set()
    try:
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except MemoryError:
        raise
    except Exception:  # an operator that has no derivative, or whose own code does not give it in eval mode
        return set()
    return {key for key, gradient in zip(leaves, gradients, strict=True) if gradient is not None}


def _probing(probed: Call, probe: float, others: Callable[[Call], Mask]) -> Callable[[Call], Mask]:
    """Masks with `probe` for one call. NaN comes through most of what follows, other numbers through the rest."""

    def answer(call: Call) -> Mask:
        if call.key != probed.key:
            return others(call)
        return _as_mask(call, torch.full([int(size) for size in call.mask_shape], probe))

    return answer


def _as_mask(call: Call, factor: Tensor) -> Mask:
    return (factor, torch.zeros_like(factor)) if KINDS[call.kind].shifted else factor
