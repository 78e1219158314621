"""Blame: which modules of a network are the cause of what was found, in words, and what is accepted instead."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def mixers(module: nn.Module) -> str | None:
    """Normalization that takes its statistics from the batch in eval mode too."""
    found = [(path, part) for path, part in module.named_modules() if isinstance(part, _BatchNorm)]
    without = [f"{path or '(network)'} ({type(part).__name__})" for path, part in found if part.running_mean is None]
    if not without:
        return None
    return f"{', '.join(without)} normalizes by the rows of a batch; one with track_running_stats=True is accepted"


def movers(module: nn.Module, moved: Sequence[str]) -> list[str]:
    """Which modules write to tensors of these names when they run, in words, and what is accepted."""
    found: dict[str, None] = {}
    parts = dict(module.named_modules(remove_duplicate=False))
    for name in moved:
        path = name.rpartition(".")[0]
        part = parts.get(path)
        if part is not None:
            writes = (
                f"{_labelled(path, part)} writes to {name}; one that leaves it as it is, or that writes it anew in "
                "each pass before it reads it, is accepted"
            )
            found[renormalized(path, part) or writes] = None
    return list(found)


def _labelled(path: str, part: nn.Module) -> str:
    return f"{path or '(network)'} ({type(part).__name__})"


def renormalized(path: str, part: nn.Module) -> str | None:
    """What an embedding does to its weight when it runs, and what is accepted; None of any other module."""
    if not isinstance(part, nn.Embedding | nn.EmbeddingBag) or part.max_norm is None:
        return None
    return (
        f"{_labelled(path, part)} renormalizes its weight to its max_norm in its forward; one that was called once "
        "with all its rows, and then given max_norm=None, is accepted"
    )
