"""The one attention function of all heads, whose backends agree: torch's own, xformers on CUDA, and plain products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
    from .attention_packed import attend_biased, attend_packed, attend_shared, xformers_biased, xformers_blocks

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
