"""Neighbourhoods in tissue, against scipy's full distance matrix and hand-made arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tissuary.store.errors import StoreError
from tissuary.store.neighbours import nearest_in_tissue


def brute_force(center_um, slide, k, *, self_included):
    away = np.round(cdist(center_um, center_um), 6)
    away[slide[:, None] != slide[None, :]] = np.inf
    np.fill_diagonal(away, -1.0 if self_included else np.inf)
    order = np.argsort(away, axis=1, kind="stable")[:, :k]  # stable: equal distances keep the order of rows
    return order, np.take_along_axis(away, order, axis=1)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 40), k=st.integers(1, 9), seed=st.integers(0, 99), own=st.booleans(), grid=st.booleans())
def test_agrees_with_the_full_distance_matrix(n, k, seed, own, grid):
    rng = np.random.default_rng(seed)
    center_um = rng.integers(0, 5, size=(n, 2)) * 100.0 if grid else rng.uniform(0, 1000, size=(n, 2))
    slide = rng.integers(0, 3, size=n)
    found = nearest_in_tissue(center_um, k, slide=slide, self_included=own)
    order, away = brute_force(center_um, slide, k, self_included=own)
    width = order.shape[1]
    finite = np.isfinite(away)
    np.testing.assert_array_equal(found.mask[:, :width], finite)
    assert not found.mask[:, width:].any()
    np.testing.assert_array_equal(found.index[:, :width][finite], order[finite])
    np.testing.assert_allclose(found.distance[:, :width][finite], np.maximum(away[finite], 0), rtol=1e-6)
    assert np.isinf(found.distance[~found.mask]).all()


def test_a_square_array_has_four_neighbours_at_its_pitch_and_masked_borders():
    y, x = np.divmod(np.arange(9), 3)
    found = nearest_in_tissue(np.stack([x, y], axis=1) * 200.0, 4, radius_um=250.0)
    assert found.mask.sum(1).tolist() == [2, 3, 2, 3, 4, 3, 2, 3, 2]
    assert found.index[4].tolist() == [1, 3, 5, 7]  # ties by row
    assert (found.distance[4] == 200.0).all()
    assert found.index.dtype == np.int32
    assert found.distance.dtype == np.float32


def test_an_isolated_spot_has_no_neighbours():
    found = nearest_in_tissue(np.array([[0.0, 0.0]]), 3)
    assert not found.mask.any()
    assert nearest_in_tissue(np.array([[0.0, 0.0]]), 1, self_included=True).index.tolist() == [[0]]


def test_k_must_be_positive():
    with pytest.raises(StoreError, match="at least one neighbour"):
        nearest_in_tissue(np.zeros((2, 2)), 0)
