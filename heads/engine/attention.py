"""The one attention function of all heads, whose backends agree: torch's own, xformers on CUDA, and plain products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from ...store.errors import HeadError

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""From query (b, h, q, e), keys and values (b or 1, h, m, e), mask (b, m), bias (b, h, q, m) to (b, h, q, e)."""


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Multi-head scaled dot-product attention, by xformers where it is installed and CUDA is there, else by torch.

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

    Raises
    ------
    HeadError
        If the heads do not divide d.
    """
    q, k, v = (_split(x, heads) for x in (query, keys, values))  # (b, h, q or m, d/h)
    out = BACKENDS[_chosen(query)](q, k, v, mask, bias)
    return out.transpose(1, 2).reshape(query.shape)


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """By torch's own kernels; masked keys are barred by minus infinity."""
    extra = None if bias is None else bias.to(q.dtype)
    none = None
    if mask is not None:
        none = ~mask.any(-1)  # (b,): softmax over nothing is not a number, so they attend to all and are zeroed
        open_ = (mask | none[:, None])[:, None, None]  # (b, 1, 1, m)
        barred = torch.where(open_, 0.0, float("-inf")).to(q.dtype)
        extra = barred if extra is None else extra + barred
    if k.shape[0] != q.shape[0]:
        k, v = (x.expand(q.shape[0], *x.shape[1:]) for x in (k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=extra)
    return out if none is None else out * (~none)[:, None, None, None].to(out.dtype)


def attend_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Written out, for stacked training on a CPU, where torch's kernels run one network after the other."""
    products = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (b, h, q, m)
    if bias is not None:
        products = products + bias
    if mask is None:
        return torch.softmax(products, dim=-1) @ v
    open_ = mask[:, None, None]
    weights = torch.softmax(products.masked_fill(~open_, torch.finfo(products.dtype).min), dim=-1)
    return (weights * open_.to(weights.dtype)) @ v


def attend_xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """By xformers: ragged keys packed end to end without padding, or a dense bias."""
    if bias is not None or (mask is not None and k.shape[0] != q.shape[0]):
        return attend_biased(q, k, v, mask, bias, attention=xformers_biased)
    if mask is not None:
        return attend_packed(q, k, v, mask, attention=xformers_blocks)
    if k.shape[0] != q.shape[0]:
        return attend_shared(q, k, v, attention=xformers_biased)
    return attend_biased(q, k, v, None, None, attention=xformers_biased)


BACKENDS: dict[str, Attention] = {"sdpa": attend_sdpa, "xformers": attend_xformers, "products": attend_products}

_asked: ContextVar[str | None] = ContextVar("attention backend", default=None)


@contextmanager
def attention_backend(name: str) -> Iterator[None]:
    """Have all attention inside the block go through one backend.

    Raises
    ------
    HeadError
        If there is no such backend, or it is not installed.
    """
    if name not in BACKENDS:
        msg = f"attention backend {name!r}: choose {', '.join(BACKENDS)}"
        raise HeadError(msg)
    if name == "xformers" and not _xformers_installed():
        msg = "attention backend 'xformers': it is not installed; `pip install xformers`, or take sdpa"
        raise HeadError(msg)
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def _chosen(query: Tensor) -> str:
    """The backend of a call: stacked training (vmap) knows torch's own operators alone."""
    if torch._C._functorch.is_batchedtensor(query):
        return "sdpa" if query.is_cuda else "products"
    asked = _asked.get()
    if asked is not None:
        return asked
    return "xformers" if query.is_cuda and _xformers_installed() else "sdpa"


@cache
def _xformers_installed() -> bool:
    return find_spec("xformers") is not None


def _split(x: Tensor, heads: int) -> Tensor:
    if x.shape[-1] % heads:
        msg = f"a width of {x.shape[-1]} over {heads} attention heads: give a multiple of {heads}"
        raise HeadError(msg)
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


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
