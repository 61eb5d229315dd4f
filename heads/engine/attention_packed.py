"""Ragged attention without padding: keys that exist laid end to end, every query confined to its own block of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Blocks = Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]
"""From packed queries (n, h, e), keys and values (m, h, e), and lengths of the blocks of both, to (n, h, e)."""

Biased = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""From query (b, q, h, e), keys and values (b, m, h, e), and a bias (b, h, q, m) to (b, q, h, e)."""

ALIGNED = 8
"""Rows of a dense bias start at multiples of this many numbers, as xformers' kernels want it."""


def attend_packed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, attention: Blocks) -> Tensor:
    """Attention over ragged keys.

    Parameters
    ----------
    q, k, v
        (b, h, q, e), and (b, h, m, e) twice.
    mask
        (b, m) True where there is a key; a query without any gets zeros.
    attention
        What attends block by block.

    Returns
    -------
    Tensor
        (b, h, q, e).
    """
    b, h, n, e = q.shape
    none = ~mask.any(-1)
    kept = mask.clone()
    kept[:, 0] |= none  # an empty block is no block: it gets one key, and its answer is zeroed
    rows = kept.flatten().nonzero()[:, 0]  # the keys that exist, block after block
    keys, values = (x.transpose(1, 2).reshape(-1, h, e)[rows] for x in (k.to(q.dtype), v.to(q.dtype)))
    out = attention(q.transpose(1, 2).reshape(-1, h, e), keys, values, [n] * b, kept.sum(1).tolist())
    return out.view(b, n, h, e).transpose(1, 2) * (~none)[:, None, None, None].to(out.dtype)


def attend_shared(q: Tensor, k: Tensor, v: Tensor, *, attention: Biased) -> Tensor:
    """Attention of all queries (b, h, q, e) over the same keys (1, h, m, e), as one long sequence of queries."""
    b, h, n, e = q.shape
    one = q.transpose(1, 2).reshape(1, b * n, h, e)
    keys, values = (x.to(q.dtype).transpose(1, 2) for x in (k, v))
    out = attention(one, keys, values, None)
    return out.view(b, n, h, e).transpose(1, 2)


def attend_biased(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, *, attention: Biased
) -> Tensor:
    """Attention with an additive bias that broadcasts to (b, h, q, m); masked keys are barred in it."""
    b, h, n, m = *q.shape[:3], k.shape[2]
    extra, none = bias, None
    if mask is not None:
        none = ~mask.any(-1)
        barred = torch.where((mask | none[:, None])[:, None, None], 0.0, float("-inf"))
        extra = barred if extra is None else extra + barred
    if extra is not None:
        extra = aligned(extra.to(q.dtype).expand(b, h, n, m))
    k, v = (x.to(q.dtype).expand(b, *x.shape[1:]).transpose(1, 2) for x in (k, v))
    out = attention(q.transpose(1, 2), k, v, extra).transpose(1, 2)
    return out if none is None else out * (~none)[:, None, None, None].to(out.dtype)


def aligned(bias: Tensor) -> Tensor:
    """The same bias (b, h, q, m), in memory whose rows start at multiples of `ALIGNED` numbers."""
    m = bias.shape[-1]
    return functional.pad(bias, (0, -m % ALIGNED)).contiguous()[..., :m]


def block_mask(q_lengths: Sequence[int], k_lengths: Sequence[int]) -> Tensor:
    """(sum of q_lengths, sum of k_lengths) True where a query and a key belong to the same block."""
    of_q = torch.repeat_interleave(torch.arange(len(q_lengths)), torch.tensor(q_lengths))
    of_k = torch.repeat_interleave(torch.arange(len(k_lengths)), torch.tensor(k_lengths))
    return of_q[:, None] == of_k[None]


def xformers_blocks(q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]) -> Tensor:
    """Block by block with xformers, which never forms the products between blocks."""
    from xformers import ops  # type: ignore[import-not-found,unused-ignore]
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask  # type: ignore[import-not-found,unused-ignore]

    blocks = BlockDiagonalMask.from_seqlens(list(q_lengths), list(k_lengths), device=q.device)
    out: Tensor = ops.memory_efficient_attention(q[None], k[None], v[None], attn_bias=blocks)
    return out[0]


def xformers_biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """With a dense bias, by xformers."""
    from xformers import ops  # type: ignore[import-not-found,unused-ignore]

    out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias)
    return out
