"""Attention written out, so that a mask can be put on its weights."""

from typing import Any

import torch
from torch import Tensor


def weights_shape(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, enable_gqa: bool
) -> tuple[int, ...]:
    """The shape of the weights of attention: dimensions before the last two broadcast."""
    end = -3 if enable_gqa else -2  # groups of queries share a head of the others
    others = [x.shape[:end] + query.shape[end:-2] for x in (key, value)]
    if attn_mask is not None:
        others.append(attn_mask.shape[:-2])
    leading: Any = query.shape[:-2]
    if not all(type(size) is int for size in leading) or any(other != leading for other in others):
        leading = torch.broadcast_shapes(leading, *others)  # type: ignore[no-untyped-call]
    return (*leading, query.shape[-2], key.shape[-2])


def attention(
    weights_mask: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` with a given mask on its weights, step by step as its documentation says.

    Args:
        weights_mask: `[..., queries, keys]`.
        query, key, value: `[..., queries, features]`, `[..., keys, features]`, `[..., keys, outputs]`.
        attn_mask, is_causal, scale, enable_gqa: as PyTorch takes them.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    if attn_mask is not None:  # a query that may look at no key gets 0, as PyTorch has it since 2.5
        weights = weights.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
    return (weights * weights_mask.to(weights.dtype)) @ value
