"""Attention's two ways agree: padding with a mask, and keys packed end to end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from tissuary.heads.engine.attention import (
    BACKENDS,
    aligned,
    attend,
    attend_biased,
    attend_packed,
    attend_products,
    attend_sdpa,
    attend_shared,
    attention_backend,
    block_mask,
    xformers_biased,
)
from tissuary.store.errors import HeadError


def blocks_by_hand(q, k, v, q_lengths, k_lengths):
    """The block-diagonal mask written out: what xformers' kernel computes without it."""
    open_ = block_mask(q_lengths, k_lengths)
    return torch.stack([soft(q[:, h], k[:, h], v[:, h], open_) for h in range(q.shape[1])], dim=1)


def soft(q, k, v, open_):
    products = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(~open_, float("-inf"))
    return torch.softmax(products, dim=-1) @ v


def dense_by_hand(q, k, v, bias):
    """(b, q, h, e) attention with a bias (b, h, q, m), by its definition."""
    products = torch.einsum("bqhe,bmhe->bhqm", q, k) / q.shape[-1] ** 0.5
    weights = torch.softmax(products if bias is None else products + bias, dim=-1)
    return torch.einsum("bhqm,bmhe->bqhe", weights, v)


def inputs(b, n, m, *, heads=2, e=3, seed=0, shared=False):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(b, heads, n, e, generator=g, requires_grad=True)
    k, v = (torch.randn(1 if shared else b, heads, m, e, generator=g, requires_grad=True) for _ in range(2))
    return q, k, v


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_packed_keys_give_what_padded_ones_give(b, n, m, seed):
    q, k, v = inputs(b, n, m, seed=seed)
    mask = torch.rand(b, m, generator=torch.Generator().manual_seed(seed)) < 0.6
    packed = attend_packed(q, k, v, mask, attention=blocks_by_hand)
    torch.testing.assert_close(packed, attend_sdpa(q, k, v, mask, None), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed, attend_products(q, k, v, mask, None), atol=1e-5, rtol=1e-4)
    assert (packed[~mask.any(-1)] == 0).all()


def test_gradients_of_both_ways_agree():
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    grads = []
    for way in (lambda *x: attend_packed(*x, mask, attention=blocks_by_hand), lambda *x: attend_sdpa(*x, mask, None)):
        x = inputs(3, 2, 3)
        (way(*x) ** 2).sum().backward()
        grads.append([part.grad for part in x])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert (grads[0][1][~mask.any(-1)] == 0).all()  # keys that do not exist learn nothing
    assert (grads[0][1].transpose(1, 2)[0, 1] == 0).all()


def test_a_block_mask_has_its_blocks():
    expected = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert block_mask([1, 2], [2, 3]).int().tolist() == expected


def test_bias_mask_and_shared_keys_agree_with_torch():
    q, k, v = inputs(4, 2, 5)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()
    bias = torch.randn(1, 2, 2, 5, generator=torch.Generator().manual_seed(3))
    ours = attend_biased(q, k, v, mask, bias, attention=dense_by_hand)
    torch.testing.assert_close(ours, attend_products(q, k, v, mask, bias), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours, attend_sdpa(q, k, v, mask, bias), atol=1e-5, rtol=1e-4)
    assert (ours[1] == 0).all()
    q, k, v = inputs(4, 2, 5, shared=True)
    torch.testing.assert_close(
        attend_shared(q, k, v, attention=dense_by_hand), attend_sdpa(q, k, v, None, None), atol=1e-5, rtol=1e-4
    )
    both = attend_biased(q, k, v, mask, None, attention=dense_by_hand)
    torch.testing.assert_close(both, attend_sdpa(q, k, v, mask, None), atol=1e-5, rtol=1e-4)


def test_a_bias_is_laid_out_in_aligned_rows():
    bias = torch.arange(2 * 1 * 3 * 5, dtype=torch.float32).view(2, 1, 3, 5)
    laid = aligned(bias)
    assert laid.stride() == (24, 24, 8, 1)
    torch.testing.assert_close(laid, bias)


def test_the_one_door_equals_attention_by_its_definition():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, n, 4)) for n in (2, 3, 3))
    expected = np.empty((1, 2, 4))
    for h in range(2):
        at = slice(2 * h, 2 * h + 2)
        products = q[0, :, at] @ k[0, :, at].T / np.sqrt(2)
        weights = np.exp(products) / np.exp(products).sum(1, keepdims=True)
        expected[0, :, at] = weights @ v[0, :, at]
    found = attend(*(torch.from_numpy(x) for x in (q, k, v)), heads=2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_stacked_training_goes_through_torch_whatever_is_asked(monkeypatch):
    q = torch.randn(3, 2, 2, 4)
    expected = torch.stack([attend(one, one, one, heads=2) for one in q])

    def refuse(*_):
        raise AssertionError

    monkeypatch.setitem(BACKENDS, "xformers", refuse)
    monkeypatch.setattr("tissuary.heads.engine.attention._xformers_installed", lambda: True)
    with attention_backend("xformers"):
        found = vmap(lambda x: attend(x, x, x, heads=2))(q)
        with pytest.raises(AssertionError):
            attend(q[0], q[0], q[0], heads=2)
    torch.testing.assert_close(found, expected)


def test_a_backend_that_does_not_exist_is_named():
    with (
        pytest.raises(HeadError, match="attention backend 'flash': choose sdpa, xformers, products"),
        attention_backend("flash"),
    ):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers' kernels run on CUDA alone")
def test_xformers_agrees_with_torch():
    pytest.importorskip("xformers", reason="xformers is not installed")
    assert callable(xformers_biased)
    g = torch.Generator().manual_seed(0)
    query, keys = torch.randn(64, 1, 128, generator=g).cuda(), torch.randn(64, 24, 128, generator=g).cuda()
    mask = (torch.rand(64, 24, generator=g) < 0.6).cuda()
    bias = torch.randn(64, 4, 1, 24, generator=g).cuda()
    for one in ({}, {"mask": mask}, {"mask": mask, "bias": bias}, {"bias": bias}):
        found = {}
        for name in BACKENDS:
            with attention_backend(name):
                found[name] = attend(query, keys, keys, heads=4, **one)
        torch.testing.assert_close(found["xformers"], found["sdpa"], atol=2e-3, rtol=2e-3)
