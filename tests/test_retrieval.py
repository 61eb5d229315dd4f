"""Retrieval against brute force, and the losses of cross-modal heads by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.heads.networks.retrieval import RetrievedSpots, find, weighted_means
from tissuary.heads.networks.retrieval_losses import (
    ProjectionHead,
    contrast,
    log_squared_error,
    published_contrast,
    soft_targets,
)
from tissuary.store.search.flat import Groups

EVERY = torch.ones(5, dtype=torch.bool)


def pair(n=5, e=4, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, e)), scale * rng.normal(size=(n, e))


def softmax(x):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def by_hand(image, spot):
    """The published loss of each row, in loops."""
    targets, logits = softmax((image @ image.T + spot @ spot.T) / 2), spot @ image.T
    rows, columns = np.log(softmax(logits)), np.log(softmax(logits.T))
    n = len(image)
    one = [-sum(targets[i, j] * rows[i, j] for j in range(n)) for i in range(n)]
    other = [-sum(targets[j, i] * columns[i, j] for j in range(n)) for i in range(n)]
    return (np.array(one) + np.array(other)) / 2


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 40),
    m=st.integers(1, 6),
    k=st.integers(1, 50),
    temperature=st.sampled_from([None, 0.05, 1.0]),
    seed=st.integers(0, 99),
)
def test_retrieval_is_brute_force(n, m, k, temperature, seed):
    rng = np.random.default_rng(seed)
    keys, queries = rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(m, 5)).astype(np.float32)
    values, weights = rng.normal(size=(n, 3)), rng.uniform(0.1, 1, size=n)
    out = weighted_means(find(keys, queries, k), values, temperature=temperature, weights=weights)
    for query, got in zip(queries.astype(np.float64), out, strict=True):
        cosine = (
            keys.astype(np.float64) @ query / np.linalg.norm(keys.astype(np.float64), axis=1) / np.linalg.norm(query)
        )
        best = np.argsort(-cosine, kind="stable")[:k]
        w = weights[best] * (1.0 if temperature is None else np.exp(cosine[best] / temperature))
        assert np.allclose(got, w @ values[best] / w.sum(), atol=1e-5)


def test_a_smaller_k_is_the_head_of_a_larger_search():
    keys, queries = pair(30, 6)
    values = np.random.default_rng(1).normal(size=(30, 2))
    short, long = find(keys, queries[:4], 3), find(keys, queries[:4], 20)
    assert np.allclose(
        weighted_means(short, values, temperature=0.1), weighted_means(long, values, k=3, temperature=0.1)
    )


def test_own_group_is_never_found_and_nothing_found_predicts_zero():
    keys = np.eye(4, dtype=np.float32)
    found = find(keys, keys, 4, groups=Groups(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])))
    assert set(found.rows[0]) == {2, 3, -1}
    means = weighted_means(found, np.arange(4.0)[:, None], temperature=0.1)
    assert means[:, 0] == pytest.approx([2.5, 2.5, 0.5, 0.5])
    none = RetrievedSpots(np.full((1, 2), -np.inf), np.full((1, 2), -1))
    assert weighted_means(none, np.ones((3, 2)), temperature=0.1).tolist() == [[0.0, 0.0]]
    assert weighted_means(none, np.ones((3, 2))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("log", [False, True])
def test_the_published_contrast_by_hand(log):
    image, spot = pair()
    each = by_hand(image, spot)
    wanted = np.log(1 + each).mean() if log else each.mean()
    found = published_contrast(torch.from_numpy(image), torch.from_numpy(spot), EVERY, log=log)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_padding_changes_no_loss():
    image, spot = (torch.from_numpy(one) for one in pair(8))
    valid, weight = torch.arange(8) < 5, torch.tensor([0.3, 1, 0.5, 0.2, 0.9, 0, 0, 0], dtype=torch.float64)
    for log in (False, True):
        whole = published_contrast(image, spot, valid, log=log)
        assert float(whole) == pytest.approx(float(published_contrast(image[:5], spot[:5], EVERY, log=log)))
    for soft in (True, False):
        padded, bare = (
            contrast(image[:n], spot[:n], weight[:n], temperature=torch.tensor(0.5), soft=soft) for n in (8, 5)
        )
        assert float(padded) == pytest.approx(float(bare))


def test_hard_contrast_is_symmetric_infonce_and_soft_targets_sum_to_one_both_ways():
    image, spot = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in pair(5, seed=3))
    weight = np.array([0.2, 1, 0.5, 0.7, 0.9])
    logits = spot @ image.T / 0.07
    each = -(np.log(np.diag(softmax(logits))) + np.log(np.diag(softmax(logits.T)))) / 2
    args = (torch.from_numpy(image), torch.from_numpy(spot), torch.from_numpy(weight))
    hard = contrast(*args, temperature=torch.tensor(0.07), soft=False)
    assert float(hard) == pytest.approx((weight * each).sum() / weight.sum())
    p = softmax((image @ image.T + spot @ spot.T) / 2 / 0.07)
    each = -((p * np.log(softmax(logits))).sum(1) + (p * np.log(softmax(logits.T))).sum(1)) / 2
    soft = contrast(*args, temperature=torch.tensor(0.07))
    assert float(soft) == pytest.approx((weight * each).sum() / weight.sum())


def test_soft_targets_carry_no_gradient_in_our_contrast_and_do_in_the_published():
    image, spot = (torch.from_numpy(one).requires_grad_() for one in pair(5, seed=4))
    logits, targets = spot @ image.T, soft_targets(image, spot, EVERY)
    frozen = -(targets.detach() * (torch.log_softmax(logits, 1) + torch.log_softmax(logits.T, 1))).sum(1).mean() / 2
    ours = contrast(image, spot, torch.ones(5).double(), temperature=torch.tensor(1.0))
    wanted, found = torch.autograd.grad(frozen, image)[0], torch.autograd.grad(ours, image)[0]
    assert torch.allclose(wanted, found)
    published = torch.autograd.grad(published_contrast(image, spot, EVERY, log=False), image)[0]
    assert not torch.allclose(wanted, published, atol=1e-3)


@pytest.mark.parametrize(("n", "correlation", "diagonal"), [(64, 0.9, 1.000), (64, 0.97, 0.972), (197, 0.97, 0.917)])
def test_published_soft_targets_are_as_good_as_hard(n, correlation, diagonal):
    """Rows of squared length 256, as LayerNorm leaves them: 1 / (1 + (n - 1) exp(-256 (1 - correlation)))."""
    gram = np.full((n, n), 256.0 * correlation) + np.eye(n) * 256.0 * (1 - correlation)
    rows = torch.from_numpy(np.linalg.cholesky(gram))
    p = soft_targets(rows, rows, torch.ones(n, dtype=torch.bool)).diagonal()
    assert float(p.mean()) == pytest.approx(1 / (1 + (n - 1) * np.exp(-256 * (1 - correlation))), rel=1e-6)
    assert float(p.mean()) == pytest.approx(diagonal, abs=1e-3)


def test_a_projection_by_hand():
    torch.manual_seed(0)
    head = ProjectionHead(3, 4).eval()
    x = np.random.default_rng(0).normal(size=(2, 3))
    w, b, v, c = (p.detach().numpy().astype(np.float64) for p in list(head.parameters())[:4])
    p = x @ w.T + b
    erf = np.vectorize(__import__("math").erf)
    out = (p * (1 + erf(p / np.sqrt(2))) / 2) @ v.T + c + p
    wanted = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    assert np.allclose(head(torch.from_numpy(x.astype(np.float32))).detach().numpy(), wanted, atol=1e-5)


def test_the_reconstruction_loss_is_the_log_of_one_plus_the_squared_error():
    found, wanted = pair()
    weight = np.array([1.0, 1, 0, 1, 0])
    mse = ((found - wanted) ** 2)[weight > 0].mean()
    out = log_squared_error(*map(torch.from_numpy, (found, wanted, weight)))
    assert float(out) == pytest.approx(np.log(1 + mse))
