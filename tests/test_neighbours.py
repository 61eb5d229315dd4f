"""The nearest rows and all within a radius, against scipy's full distance matrix and hand-made arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tissuary.store.errors import StoreError
from tissuary.store.spatial.neighbourhood import Neighbourhood, nearest_in_tissue, within_radius


def positions(rng, n, layout):
    """Points anywhere, on a grid that is off every round number, or crowded on a few places."""
    if layout == "anywhere":
        return rng.uniform(0, 1000, size=(n, 2))
    cells = rng.permutation(64)[:n] if layout == "grid" else rng.integers(0, 6, size=n)
    return np.stack(np.divmod(cells, 8), axis=1) * 290.3 * 0.6891 + 1234.5


def by_distance_and_row(center_um, slide, row, *, self_included):
    """Rows of the same slide and their distances, in the documented order, found the slow way."""
    away = cdist(center_um[row : row + 1], center_um)[0]
    others = [other for other in np.argsort(away) if slide[other] == slide[row] and other != row]
    order, tied = [], []
    for other in others:
        if tied and away[other] - away[tied[-1]] > 1e-6:
            order, tied = order + sorted(tied), []
        tied.append(other)
    order += sorted(tied)
    return ([row, *order], [0.0, *away[order]]) if self_included else (order, list(away[order]))


LAYOUTS = st.sampled_from(["anywhere", "grid", "crowded"])


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99), own=st.booleans(), layout=LAYOUTS,
    slides=st.integers(1, 3),
)  # fmt: skip
def test_agrees_with_the_full_distance_matrix(n, k, seed, own, layout, slides):
    rng = np.random.default_rng(seed)
    center_um, slide = positions(rng, n, layout), rng.integers(0, slides, size=n)
    found = nearest_in_tissue(center_um, k, slide=slide, self_included=own)
    assert found.k == k
    for row in range(n):
        order, away = by_distance_and_row(center_um, slide, row, self_included=own)
        width = min(k, len(order))
        assert found.mask[row].tolist() == [True] * width + [False] * (k - width)
        assert found.index[row].tolist() == order[:width] + [0] * (k - width)
        np.testing.assert_allclose(found.distance[row, :width], away[:width], rtol=1e-6, atol=1e-9)
        assert np.isinf(found.distance[row, width:]).all()


def test_many_rows_agree_with_scipy():
    center_um = np.random.default_rng(3).uniform(0, 9000, size=(3000, 2))
    found = nearest_in_tissue(center_um, 12)
    away = np.sort(cdist(center_um, center_um), axis=1)[:, 1:13]
    np.testing.assert_allclose(found.distance, away, rtol=1e-6)
    reached = np.hypot(*(center_um[found.index] - center_um[:, None]).transpose(2, 0, 1))
    np.testing.assert_allclose(reached, away, rtol=1e-9)


def test_a_ring_of_spots_that_are_all_equally_far():
    turn = np.arange(200) * 2 * np.pi / 200
    center_um = np.concatenate([np.stack([np.cos(turn), np.sin(turn)], axis=1) * 150, [[0.0, 0.0]]])
    found = nearest_in_tissue(center_um, 5)
    assert found.index[200].tolist() == [0, 1, 2, 3, 4]  # 200 are tied, the lowest rows are taken
    np.testing.assert_allclose(found.distance[200], 150)


def test_spots_at_one_place_come_by_row_and_a_row_comes_before_its_twins():
    center_um = np.full((40, 2), 7.25)
    assert nearest_in_tissue(center_um, 3).index[[0, 1, 39]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 2]]
    found = nearest_in_tissue(center_um, 3, self_included=True)
    assert found.index[[0, 1, 39]].tolist() == [[0, 1, 2], [1, 0, 2], [39, 0, 1]]
    assert (found.distance == 0).all()


def test_a_square_array_has_four_neighbours_at_its_pitch_and_masked_borders():
    y, x = np.divmod(np.arange(9), 3)
    found = nearest_in_tissue(np.stack([x, y], axis=1) * 200.0, 4, radius_um=250.0)
    assert found.mask.sum(1).tolist() == [2, 3, 2, 3, 4, 3, 2, 3, 2]
    assert found.index[4].tolist() == [1, 3, 5, 7]  # ties by row
    assert (found.distance[4] == 200.0).all()
    assert found.index.dtype == np.int32
    assert found.distance.dtype == np.float32


def test_an_isolated_spot_has_no_neighbours():
    alone = np.array([[0.0, 0.0]])
    assert not nearest_in_tissue(alone, 3).mask.any()
    assert nearest_in_tissue(alone, 1, self_included=True).index.tolist() == [[0]]
    found = within_radius(np.array([[0.0, 0.0], [900.0, 0.0]]), 300)
    assert (found.index.tolist(), found.mask.tolist(), found.distance.tolist()) == (
        [[0], [0]], [[False], [False]], [[np.inf], [np.inf]],
    )  # fmt: skip
    assert within_radius(np.empty((0, 2)), 300).index.shape == (0, 1)
    assert nearest_in_tissue(np.empty((0, 2)), 4).index.shape == (0, 4)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 60), radius_um=st.floats(20, 1500), seed=st.integers(0, 99), own=st.booleans(), layout=LAYOUTS,
    slides=st.integers(1, 3),
)  # fmt: skip
def test_a_radius_holds_all_within_it_and_is_symmetric(n, radius_um, seed, own, layout, slides):
    rng = np.random.default_rng(seed)
    center_um, slide = positions(rng, n, layout), rng.integers(0, slides, size=n)
    found = within_radius(center_um, radius_um, slide=slide, self_included=own)
    pairs = {(int(row), int(found.index[row, place])) for row, place in np.argwhere(found.mask)}
    near = (cdist(center_um, center_um) <= radius_um + 1e-6) & (slide[:, None] == slide)
    assert pairs == {(int(i), int(j)) for i, j in np.argwhere(near) if own or i != j}
    assert pairs == {(j, i) for i, j in pairs}
    assert found.k == max(1, found.mask.sum(1).max())
    nearest = nearest_in_tissue(center_um, found.k, slide=slide, radius_um=radius_um, self_included=own)
    np.testing.assert_array_equal(found.index, nearest.index)
    capped = within_radius(center_um, radius_um, slide=slide, k_max=2, self_included=own)
    assert capped.k == min(found.k, 2)
    np.testing.assert_array_equal(capped.index, found.index[:, :2])


@pytest.mark.parametrize("mpp", [0.1, 0.3, 0.7, 1.1])
def test_spots_at_the_very_radius_are_within_it_whatever_the_rounding(mpp):
    y, x = np.divmod(np.arange(400), 20)
    center_um = np.stack([x, y], axis=1) * 30.0 * mpp
    found = within_radius(center_um, 30.0 * mpp)
    inside = (x > 0) & (x < 19) & (y > 0) & (y < 19)
    assert (found.mask.sum(1)[inside] == 4).all()
    assert found.mask.sum() == 4 * 19 * 20
    assert (nearest_in_tissue(center_um, 9, radius_um=30.0 * mpp).mask.sum(1) == found.mask.sum(1)).all()


def test_masked_places_are_blank_whatever_was_there():
    found = Neighbourhood.where(np.array([[True, False]]), np.array([[5, 7]]), np.array([[2.5, 3.5]]))
    assert (found.index.tolist(), found.distance.tolist()) == ([[5, 0]], [[2.5, np.inf]])
    assert (found.index.dtype, found.mask.dtype, found.distance.dtype) == (np.int32, np.bool_, np.float32)


def test_what_cannot_be_asked_for_is_named():
    two = np.zeros((2, 2))
    with pytest.raises(StoreError, match="k = 0: ask for at least one neighbour"):
        nearest_in_tissue(two, 0)
    with pytest.raises(StoreError, match=r"k = 2\.5: ask for a whole number"):
        nearest_in_tissue(two, 2.5)
    with pytest.raises(StoreError, match="k_max = 0: ask for at least one neighbour"):
        within_radius(two, 100, k_max=0)
    with pytest.raises(StoreError, match="radius_um = -3: give a positive distance"):
        within_radius(two, -3)
    with pytest.raises(StoreError, match="radius_um = nan: give a positive distance"):
        nearest_in_tissue(two, 1, radius_um=float("nan"))
    with pytest.raises(StoreError, match="an endless radius holds every row"):
        within_radius(two, float("inf"))
    with pytest.raises(StoreError, match=r"row 1 lies at \[nan, 0.0\] um"):
        nearest_in_tissue(np.array([[0.0, 0.0], [np.nan, 0.0]]), 1)
    with pytest.raises(StoreError, match=r"positions of shape \(2, 3\): wanted \(n, 2\)"):
        nearest_in_tissue(np.zeros((2, 3)), 1)
    with pytest.raises(StoreError, match=r"slide numbers of shape \(3,\) for 2 rows"):
        nearest_in_tissue(two, 1, slide=np.zeros(3, dtype=np.int32))
