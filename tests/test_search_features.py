"""Neighbours in feature space on arrays, and the half-precision path that GPUs take, against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store.errors import MissingDependencyError, StoreError
from tissuary.store.search.exact import flat_index, nearest_in_features, search_exact, unit_rows
from tissuary.store.search.flat import Groups, NumpyFlat
from tissuary.store.search.gpu import SplitFlat, TorchFlat, coarse_error


def cosines(features, queries):
    base, asked = (unit_rows(rows).astype(float) for rows in (features, queries))
    return (asked[:, None] * base[None]).sum(2)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 50), k=st.integers(1, 12), patients=st.integers(1, 5), grouped=st.booleans(),
    others=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_neighbours_never_come_from_the_own_group(n, k, patients, grouped, others, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)[rng.integers(0, n, size=n)]  # some rows are equal
    patient = np.array(["A", "B", "C", "D", "E"])[rng.integers(0, patients, size=n)]
    queries = rng.normal(size=(7, 4)).astype(np.float32) if others else None
    asker = np.array(["A", "B", "new"])[rng.integers(0, 3, size=7)] if others else patient
    found = nearest_in_features(
        features, k, group=patient if grouped else None, queries=queries,
        query_group=asker if grouped and others else None,
    )  # fmt: skip
    cosine = cosines(features, features if queries is None else queries)
    if grouped:
        cosine[asker[:, None] == patient[None]] = -np.inf
    if not others:
        np.fill_diagonal(cosine, -np.inf)
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    value = np.take_along_axis(cosine, best, axis=1)
    width = best.shape[1]
    np.testing.assert_array_equal(found.mask[:, :width], np.isfinite(value))
    assert not found.mask[:, width:].any()
    np.testing.assert_array_equal(found.index[:, :width], np.where(np.isfinite(value), best, 0))
    np.testing.assert_allclose(found.distance[found.mask], 1 - value[np.isfinite(value)], atol=1e-6)
    assert np.isinf(found.distance[~found.mask]).all()
    assert (found.index.dtype, found.distance.dtype, found.index.shape[1]) == (np.int32, np.float32, k)


def test_groups_and_rows_must_agree():
    rows = np.ones((5, 2), np.float32)
    with pytest.raises(StoreError, match="group has 4 entries for 5 rows"):
        nearest_in_features(rows, 2, group=np.zeros(4))
    with pytest.raises(StoreError, match="query_group has 5 entries for 3 rows"):
        nearest_in_features(rows, 2, group=np.zeros(5), queries=rows[:3], query_group=np.zeros(5))
    with pytest.raises(StoreError, match="k = 0: ask for at least one"):
        nearest_in_features(rows, 0)


def clustered(n, dim, *, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    return (centres[rng.integers(0, 20, size=n)] + 0.7 * rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_half_precision_first_and_fp32_after_is_exact(scale):
    base = unit_rows(clustered(3000, 128)) if scale == 1 else clustered(3000, 128) * scale  # beyond fp16 as they are
    longest = float(np.linalg.norm(base, axis=1).max()) * (1 + 1e-6)
    queries = base[::29]
    groups = Groups(np.arange(3000) // 100, np.arange(3000)[::29] // 100)
    for left_out in (None, groups):
        index = TorchFlat(base, longest=longest, device="cpu")
        scores, rows = search_exact(index, queries, 10, groups=left_out)
        exact = queries.astype(float) @ base.T.astype(float)
        if left_out is not None:
            exact[groups.queries[:, None] == groups.rows[None]] = -np.inf
        best = np.argsort(-exact, axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(rows, best)
        np.testing.assert_allclose(scores, np.take_along_axis(exact, best, axis=1), rtol=1e-12)


def test_half_precision_alone_would_not_be():
    """The first pass errs (so the second is needed), and by less than its bound (so the second suffices)."""
    base = unit_rows(clustered(3000, 128))
    exact = base.astype(float) @ base[:200].T.astype(float)
    for low, digits in ((torch.bfloat16, 8), (torch.float16, 11)):
        coarse = (torch.from_numpy(base).to(low) @ torch.from_numpy(base[:200]).to(low).T).double().numpy()
        error = np.abs(coarse - exact).max()
        assert coarse_error(128, digits=digits) / 20 < error < coarse_error(128, digits=digits)
    coarse_ten, true_ten = (np.argsort(-scores, axis=0)[:10] for scores in (coarse, exact))
    assert (np.sort(coarse_ten, axis=0) != np.sort(true_ten, axis=0)).any()


def test_crowded_rows_are_looked_at_until_the_bound_lets_go():
    """More rows within the error of the first pass than it hands on."""
    rng = np.random.default_rng(3)
    one = rng.normal(size=32)
    base = unit_rows(one + 0.01 * rng.normal(size=(2000, 32)))
    queries = unit_rows(one[None] + 0.5 * rng.normal(size=(4, 32)))
    rows = search_exact(TorchFlat(base, device="cpu"), queries, 10)[1]
    exact = (queries.astype(float)[:, None] * base.astype(float)[None]).sum(2)
    np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :10])


def test_an_index_that_cannot_leave_rows_out_is_spared_it():
    class Plain(NumpyFlat):
        def top(self, queries, k, groups):
            assert groups is None and k <= 30
            return super().top(queries, k, groups)

    base = unit_rows(clustered(200, 8))
    index = SplitFlat(Plain(base), TorchFlat(base, device="cpu"), most=30)
    groups = Groups(np.arange(200) // 50, np.array([0, 3]))
    for k, left_out in ((5, None), (5, groups), (100, None)):
        found = search_exact(index, base[:2], k, groups=left_out)[1]
        np.testing.assert_array_equal(found, search_exact(NumpyFlat(base), base[:2], k, groups=left_out)[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said(make_store):
    base = unit_rows(clustered(20, 8))
    assert isinstance(flat_index(base, device="auto"), NumpyFlat)
    with pytest.raises(MissingDependencyError, match="neither torch nor FAISS sees a GPU"):
        flat_index(base, device="cuda")
    with pytest.raises(StoreError, match="device 'tpu': choose auto, cpu or cuda"):
        flat_index(base, device="tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_gives_what_the_cpu_gives():
    base = unit_rows(clustered(20_000, 256))
    groups = Groups(np.arange(20_000) // 500, np.arange(20_000)[::97] // 500)
    for left_out in (None, groups):
        found = search_exact(flat_index(base, device="cuda"), base[::97], 10, groups=left_out)[1]
        np.testing.assert_array_equal(found, search_exact(NumpyFlat(base), base[::97], 10, groups=left_out)[1])
