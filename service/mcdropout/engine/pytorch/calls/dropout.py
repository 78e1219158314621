"""Dropout: PyTorch's functions for it, and attention, which drops from its weights."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcdropout.engine.kinds import ALPHA, ATTENTION, CHANNEL, DROPCONNECT, ELEMENT, FEATURE_ALPHA
from mcdropout.engine.pytorch.attention import attention, weights_shape
from mcdropout.engine.pytorch.calls.mode import RandomCalls, handles, seen_through
from mcdropout.engine.pytorch.random_call import Mask

# Dropout: the kind, and whether `training` is on where the call does not say.
_DROPOUTS: dict[Any, tuple[str, bool]] = {
    F.dropout: (ELEMENT, True),
    F.dropout1d: (CHANNEL, True),
    F.dropout2d: (CHANNEL, True),
    F.dropout3d: (CHANNEL, True),
    F.alpha_dropout: (ALPHA, False),
    F.feature_alpha_dropout: (FEATURE_ALPHA, False),
    torch.dropout: (ELEMENT, True),
    torch.dropout_: (ELEMENT, True),
    torch.native_dropout: (ELEMENT, True),
    torch.feature_dropout: (CHANNEL, True),
    torch.feature_dropout_: (CHANNEL, True),
    torch.alpha_dropout: (ALPHA, True),
    torch.alpha_dropout_: (ALPHA, True),
    torch.feature_alpha_dropout: (FEATURE_ALPHA, True),
    torch.feature_alpha_dropout_: (FEATURE_ALPHA, True),
}
_INPLACE = {torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_}
# The dropout of these functions takes an input without a row dimension where it has this many dimensions.
_UNBATCHED_DIMENSIONS = {F.dropout1d: 2, F.dropout3d: 4}


@handles(*_DROPOUTS)
def _dropout(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kind, on = _DROPOUTS[func]
    x: Tensor = args[0] if args else kwargs["input"]
    p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    active = args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", on))
    shape: tuple[int, ...] = tuple(x.shape)
    if kind in (CHANNEL, FEATURE_ALPHA):
        leading = 1 if x.dim() == _UNBATCHED_DIMENSIONS.get(func) else 2
        shape = (*x.shape[:leading], *[1] * (x.dim() - leading))
    if kind == ELEMENT and isinstance(x, nn.Parameter):
        kind = DROPCONNECT
    if kind == ELEMENT and mode.in_attention:
        kind = ATTENTION
    mask = mode.ask(kind, p, active is not False and p > 0.0, shape, x)
    result = apply_mask(x, mask)
    if func is torch.native_dropout:
        return result, mask.expand_as(x) != 0 if isinstance(mask, Tensor) else torch.ones_like(x, dtype=torch.bool)
    if func in _INPLACE or (len(args) > 3 and args[3]) or kwargs.get("inplace", False):
        return x.copy_(result) if result is not x else x
    # What is made of a parameter is none, masked or not: wrappers that drop weights assign it in the parameter's place.
    return x.view_as(x) if isinstance(result, nn.Parameter) else result


def apply_mask(x: Tensor, mask: Mask) -> Tensor:
    """What is left of `x` under a mask."""
    if mask is None:
        return x
    if isinstance(mask, tuple):
        factor, summand = mask
        return x * _as(x, factor) + _as(x, summand)
    return x * _as(x, mask)


def _as(x: Tensor, mask: Tensor) -> Tensor:
    """A mask in the dtype of what it is put on; exporters write down more of `to` than it does."""
    return mask if mask.dtype == x.dtype else mask.to(x.dtype)


@handles(F.scaled_dot_product_attention)
def _attention(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    p = float(given.pop("dropout_p", 0.0))
    query = given["query"]
    shape = weights_shape(query, given["key"], given["value"], given.get("attn_mask"), given.get("enable_gqa", False))
    mask = mode.ask(ATTENTION, p, p > 0.0, shape, query)
    if mask is None:
        out: Tensor = func(**given, dropout_p=0.0)
        return out
    assert isinstance(mask, Tensor)
    return attention(mask, **given)


_multi_head_attention = seen_through(F.multi_head_attention_forward)


@handles(F.multi_head_attention_forward)
def _composite(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.in_attention = True
    try:
        with mode:
            return _multi_head_attention(*args, **kwargs)
    finally:
        mode.in_attention = False
