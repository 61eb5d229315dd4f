"""Neighbours by ring, against the rule followed by hand and the distances of scipy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tissuary.store.errors import StoreError
from tissuary.store.spatial.neighbourhood import within_radius
from tissuary.store.spatial.rings import rings


def square_grid(side, pitch_um):
    y, x = np.divmod(np.arange(side * side), side)
    return np.stack([x, y], axis=1) * pitch_um


def by_the_rule(center_um, row, inner, outer, per_ring):
    """Turn by turn, each sector gives its nearest spot that is left."""
    sectors = {one: [] for one in range(per_ring)}
    for other, (x, y) in enumerate(center_um - center_um[row]):
        if inner < math.hypot(x, y) <= outer:
            sectors[round(math.degrees(math.atan2(y, x)) / (360 / per_ring)) % per_ring].append(
                (math.hypot(x, y), other)
            )
    queues = [sorted(spots) for spots in sectors.values()]
    chosen = []
    while any(queues) and len(chosen) < per_ring:
        turn = sorted(queue.pop(0) for queue in queues if queue)
        chosen += turn[: per_ring - len(chosen)]
    return [other for _, other in sorted(chosen)]


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), per_ring=st.integers(1, 9), seed=st.integers(0, 99))
def test_follows_the_rule(n, per_ring, seed):
    center_um = np.random.default_rng(seed).uniform(0, 1000, size=(n, 2))
    edges = (0, 250, 300, 700)
    found = rings(center_um, edges, per_ring)
    assert found.k == 3 * per_ring
    for row in range(n):
        for ring, (inner, outer) in enumerate(pairwise(edges)):
            places = slice(ring * per_ring, (ring + 1) * per_ring)
            wanted = by_the_rule(center_um, row, inner, outer, per_ring)
            blank = per_ring - len(wanted)
            assert found.mask[row, places].tolist() == [True] * len(wanted) + [False] * blank
            assert found.index[row, places].tolist() == wanted + [0] * blank


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 50), seed=st.integers(0, 99), grid=st.booleans(), slides=st.integers(1, 3))
def test_rings_with_room_for_all_share_out_a_radius(n, seed, grid, slides):
    rng = np.random.default_rng(seed)
    center_um = rng.integers(0, 6, size=(n, 2)) * 100.3 if grid else rng.uniform(0, 600, size=(n, 2))
    slide = rng.integers(0, slides, size=n)
    edges = (0.0, 100.3, 200.6, 401.2)
    found = rings(center_um, edges, n, slide=slide)
    near = within_radius(center_um, edges[-1], slide=slide)
    away = cdist(center_um, center_um)
    for row in range(n):
        shared_out = found.index[row][found.mask[row]].tolist()
        assert len(shared_out) == len(set(shared_out))
        assert set(shared_out) == {other for other in near.index[row][near.mask[row]].tolist() if away[row, other] > 0}
        for ring in range(3):
            places = slice(ring * n, (ring + 1) * n)
            inside = found.distance[row, places][found.mask[row, places]]
            assert (np.diff(inside) >= 0).all()
            assert ((edges[ring] - 1e-3 < inside) & (inside < edges[ring + 1] + 1e-3)).all()
    np.testing.assert_allclose(
        found.distance[found.mask], np.broadcast_to(away[:, None], (n, 3 * n, n))[
            (*np.nonzero(found.mask), found.index[found.mask])
        ], rtol=1e-6,
    )  # fmt: skip


def test_a_spot_array_keeps_every_neighbour_and_a_spot_on_an_edge_is_in_the_inner_ring():
    center_um = square_grid(7, 200.0)
    found = rings(center_um, (0, 300, 600), 8)
    middle = 24  # row 3, column 3
    assert found.index[middle, :8].tolist() == [17, 23, 25, 31, 16, 18, 30, 32]  # four at 200 um, four at 283 um
    np.testing.assert_allclose(found.distance[middle, :8], [200] * 4 + [200 * 2**0.5] * 4)
    assert (rings(center_um, (0, 200, 600), 8).mask[middle, :8]).tolist() == [True] * 4 + [False] * 4
    corner = rings(center_um, (0, 300, 600), 8)
    assert corner.index[0, :3].tolist() == [1, 7, 8]
    assert corner.mask[0, :8].sum() == 3  # nothing wraps round the border


@pytest.mark.parametrize("mpp", [0.1, 0.2519, 0.7])
def test_spots_between_two_sectors_fall_in_the_same_one_whatever_the_rounding(mpp):
    center_um = square_grid(9, 1.0) * (100 / mpp) * mpp + 17.3 * mpp
    found = rings(center_um, (100, 250), 4)  # diagonals lie between the four sectors
    for row in range(9 * 2 + 2, 9 * 6 + 7):
        if 2 <= row % 9 <= 6:
            assert found.index[row].tolist() == [row - 10, row - 8, row + 8, row + 10]


def test_a_dense_grid_is_sampled_in_all_directions():
    center_um = square_grid(31, 40.0)
    middle = 15 * 31 + 15
    found = rings(center_um, (0, 300, 600), 8)

    def sectors(row):
        step = center_um[found.index[row]] - center_um[row]
        return (np.round(np.degrees(np.arctan2(step[:, 1], step[:, 0])) / 45).astype(int) % 8).tolist()

    assert sorted(sectors(middle)[:8]) == sorted(sectors(middle)[8:]) == list(range(8))
    assert found.mask[middle].all()
    assert (found.distance[middle, 8:] > 300).all()
    # At the upper left corner only three of the directions exist, and fill the ring: 3 + 3 + 2.
    assert found.mask[0].all()
    assert np.bincount(sectors(0)[:8]).max() == 3
    assert set(sectors(0)) == {0, 1, 2}


def test_rows_of_other_slides_and_at_the_same_place_are_in_no_ring():
    center_um = np.array([[0.0, 0.0], [0.0, 0.0], [100.0, 0.0], [50.0, 0.0]])
    found = rings(center_um, (0, 300), 3, slide=np.array([0, 0, 0, 1]))
    assert found.index.tolist() == [[2, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert found.mask.sum(1).tolist() == [1, 1, 2, 0]
    assert np.isinf(found.distance[3]).all()
    assert rings(np.empty((0, 2)), (0, 300), 3).index.shape == (0, 3)


def test_blocks_of_rows_do_not_change_the_answer(monkeypatch):
    center_um = np.random.default_rng(0).uniform(0, 2000, size=(300, 2))
    whole = rings(center_um, (0, 300, 600), 8)
    monkeypatch.setattr("tissuary.store.spatial.nearest.CELLS", 500)
    parts = rings(center_um, (0, 300, 600), 8)
    np.testing.assert_array_equal(whole.index, parts.index)
    np.testing.assert_array_equal(whole.distance, parts.distance)


@pytest.mark.parametrize("edges", [(300,), (300, 0), (0, 300, 300), (-1, 300), (0, float("inf")), (0, float("nan"))])
def test_edges_that_do_not_grow_are_refused(edges):
    with pytest.raises(StoreError, match="give two or more that grow from zero or above"):
        rings(np.zeros((2, 2)), edges, 8)


def test_a_ring_without_room_is_refused():
    with pytest.raises(StoreError, match="per_ring = 0: ask for at least one neighbour"):
        rings(np.zeros((2, 2)), (0, 300), 0)
