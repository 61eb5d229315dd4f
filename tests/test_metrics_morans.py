import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import tissuary.heads.protocols.scores.morans as module
from tissuary.heads.protocols.scores.morans import morans_i, spatial_weights
from tissuary.store.errors import ProtocolError, StoreError

EXACT = {"rtol": 0, "atol": 1e-10}


def scattered(seed, n=40, g=5):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1000, (n, 2)), rng.normal(2, 1, (n, g))


def double_sum(values, weights):
    """Moran's I from its definition, pair by pair."""
    n = len(values)
    z = values - sum(values) / n
    pairs = sum(weights[i, j] * z[i] * z[j] for i in range(n) for j in range(n))
    total = sum(weights[i, j] for i in range(n) for j in range(n))
    return n / total * pairs / sum(z[i] ** 2 for i in range(n))


def nearest_weights(center_um, k, slide):
    """Weights from all distances, row by row."""
    n = len(center_um)
    weights = np.zeros((n, n))
    for i in range(n):
        others = [j for j in range(n) if j != i and slide[j] == slide[i]]
        near = sorted(others, key=lambda j: (np.hypot(*(center_um[j] - center_um[i])), j))[:k]
        weights[i, near] = 1 / len(near) if near else 0
    return weights


def test_weights_are_the_nearest_spots_of_the_same_slide():
    center_um, _ = scattered(0)
    slide = np.random.default_rng(1).integers(0, 3, 40)
    slide[17] = 9  # alone
    found = spatial_weights(center_um, k=4, slide=slide)
    np.testing.assert_allclose(found.toarray(), nearest_weights(center_um, 4, slide), rtol=0, atol=1e-15)
    assert found.has_sorted_indices
    assert found[17].nnz == 0


def test_a_small_slide_has_all_others_as_neighbours():
    found = spatial_weights(np.array([[0.0, 0], [1, 0], [5, 0]]))
    np.testing.assert_allclose(found.toarray(), [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], rtol=0, atol=0)


def test_it_is_the_double_sum_over_pairs(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 80)  # two genes a block
    center_um, values = scattered(2)
    weights = spatial_weights(center_um)
    expected = [double_sum(values[:, g], weights.toarray()) for g in range(5)]
    np.testing.assert_allclose(morans_i(values, weights), expected, **EXACT)
    np.testing.assert_allclose(morans_i(sparse.csr_matrix(values), weights), expected, **EXACT)
    np.testing.assert_allclose(morans_i(np.asfortranarray(values), weights), expected, **EXACT)


def test_it_is_scanpys():
    import scanpy

    center_um, values = scattered(3)
    weights = spatial_weights(center_um, slide=np.repeat([0, 1], 20))
    np.testing.assert_allclose(morans_i(values, weights), scanpy.metrics.morans_i(weights, values.T), **EXACT)


def test_by_hand():
    # A line of four spots, two neighbours each: ends see 1, 2 and 2, 1; deviations -1.5, -0.5, 0.5, 1.5.
    center_um = np.array([[0.0, 0], [1, 0], [2.1, 0], [3.3, 0]])
    weights = spatial_weights(center_um, k=1)  # 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2
    z = np.array([-1.5, -0.5, 0.5, 1.5])
    expected = (0.75 + 0.75 - 0.25 + 0.75) / 5
    assert morans_i(z[:, None] + 7, weights) == pytest.approx(expected, abs=1e-15)


def test_structure_scores_high_and_a_chessboard_low():
    row, column = (axis.ravel() for axis in np.indices((20, 20)))
    center_um = np.column_stack([column, row]) * 100.0
    weights = spatial_weights(center_um, k=4)
    smooth, board = morans_i(np.column_stack([row, (row + column) % 2]).astype(np.float32), weights)
    assert smooth > 0.9
    assert board < -0.8


@pytest.mark.parametrize("size", [1e-6, 0.1, 3.7, 1e6])
def test_constants_and_nan_are_undefined_however_they_are_rounded(size):
    rng = np.random.default_rng(0)
    center_um, values = scattered(0)
    rounding = 1 + rng.integers(-4, 5, 40) * np.finfo(np.float32).eps
    broken = np.column_stack([values[:, 0], (size * rounding).astype(np.float32), values[:, 1]])
    broken[3, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(morans_i(broken, spatial_weights(center_um))), [False, True, True])


def test_spots_without_neighbours_have_no_moran():
    alone = spatial_weights(np.array([[0.0, 0], [1, 1]]), slide=np.array([0, 1]))
    assert np.isnan(morans_i(np.array([[1.0], [2]]), alone)).all()
    assert morans_i(np.empty((0, 3)), spatial_weights(np.empty((0, 2)))).shape == (3,)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), offset=st.floats(-10, 10))
def test_scale_shift_and_order_do_not_matter(seed, scale, offset):
    center_um, values = scattered(seed)
    plain = morans_i(values, spatial_weights(center_um))
    rng = np.random.default_rng(seed)
    spots, genes = rng.permutation(40), rng.permutation(5)
    moved = morans_i(values[np.ix_(spots, genes)], spatial_weights(center_um[spots]))
    np.testing.assert_allclose(moved, plain[genes], **EXACT)
    changed = morans_i(-scale * values + offset, spatial_weights(0.1 * center_um + 3e3))
    np.testing.assert_allclose(changed, plain, **EXACT)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ProtocolError, match=r"weights of shape \(3, 3\) came for values of 2 spots"):
        morans_i(np.ones((2, 1)), spatial_weights(np.eye(3, 2)))
    with pytest.raises(StoreError, match="at least one neighbour"):
        spatial_weights(np.eye(3, 2), k=0)
