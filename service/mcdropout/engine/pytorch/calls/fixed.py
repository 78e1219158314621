"""Functions that draw nothing, and are to do the same in every pass, whatever mode a module is in."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcdropout.engine.pytorch.calls.mode import RandomCalls, handles


@handles(F.batch_norm)
def _batch_norm(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Batch norm that knows its statistics uses them, even in a module that has to leave eval mode for its dropout."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("running_mean") is not None:
        given["training"] = False
    normalized: Tensor = func(**given, **dict(zip(("momentum", "eps"), args[len(names) :], strict=False)))
    return normalized


@handles(torch.sort, Tensor.sort, torch.argsort, Tensor.argsort)
def _sort(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Equal numbers stay in their order, so that passes of one row keep their masks where a network sorts its rows."""
    x, *places = args or (kwargs["input"],)
    given = {**dict(zip(("dim", "descending"), places, strict=False)), **kwargs}
    if len(places) > 2 or "stable" in given or "out" in given or torch.compiler.is_exporting():
        return func(*args, **kwargs)
    given.pop("input", None)
    return func(x, **given, stable=True)
