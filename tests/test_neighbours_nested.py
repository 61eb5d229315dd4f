"""Parents and children across grids, and every kind of neighbour through the doors of a store and a table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.featurize.tissue.grid import grid_centers, nested_parents
from tissuary.store.errors import StoreError
from tissuary.store.files.patches import Patches, write_patches
from tissuary.store.files.schema import patches_path
from tissuary.store.spatial.neighbourhood import Neighbourhood
from tissuary.store.spatial.nested import children, containing, parents
from tissuary.store.spatial.window import lattice

KEY = "toy@20x"


def grid_um(rows, columns, side_um):
    y, x = np.divmod(np.arange(rows * columns), columns)
    return (np.stack([x, y], axis=1) + 0.5) * side_um


FINE, COARSE = grid_um(4, 4, 100.0), grid_um(2, 2, 200.0)
PARENT = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, -1, -1, 2, 2, -1, -1])  # the fourth coarse tile was not kept


def test_sixteen_tiles_in_three_by_hand():
    up = parents([PARENT], center_um=FINE, coarse_center_um=COARSE[:3])
    assert up.index[:, 0].tolist() == np.maximum(PARENT, 0).tolist()
    assert up.mask[:, 0].tolist() == (PARENT >= 0).tolist()
    assert up.distance[:, 0].tolist() == pytest.approx(np.where(PARENT >= 0, 50 * 2**0.5, np.inf).tolist())
    down = children(up, 3)
    assert down.index.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13]]
    assert down.mask.all()
    np.testing.assert_allclose(down.distance, 50 * 2**0.5)


def test_several_levels_lead_to_the_coarsest():
    finest = grid_um(8, 8, 50.0)
    first = np.array([4 * (r // 2) + c // 2 for r in range(8) for c in range(8)])
    up = parents([first, PARENT, np.array([0, 0, -1])], center_um=finest, coarse_center_um=np.array([[200.0, 200.0]]))
    assert up.mask[:, 0].reshape(8, 8).tolist() == [[True] * 8] * 4 + [[False] * 8] * 4
    assert up.distance[0, 0] == pytest.approx(175 * 2**0.5)
    down = children(up, 1)
    assert down.index.tolist() == [list(range(32))]


def test_tiles_without_children_are_masked():
    none = Neighbourhood.where(np.array([[False], [True], [True]]), np.array([[0], [2], [2]]), np.zeros((3, 1)))
    down = children(none, 4)
    assert down.mask.tolist() == [[False, False], [False, False], [True, True], [False, False]]
    assert down.index[2].tolist() == [1, 2]
    empty = children(Neighbourhood.where(np.zeros((0, 1), bool), np.zeros((0, 1)), np.zeros((0, 1))), 2)
    assert (empty.k, empty.mask.any()) == (1, False)
    assert children(empty, 0).index.shape == (0, 1)


def test_a_spot_lies_in_the_tile_whose_square_holds_it():
    spots = np.array(
        [[0.0, 0.0], [99.9, 50.0], [100.0, 50.0], [100.0, 100.0], [399.9, 399.9], [400.0, 50.0], [-0.1, 0.0]]
    )
    found = containing(spots, FINE, 100.0)
    assert found.index[:, 0].tolist() == [0, 0, 1, 5, 15, 0, 0]
    assert found.mask[:, 0].tolist() == [True] * 5 + [False] * 2  # beyond the right edge, and beyond the left
    np.testing.assert_allclose(found.distance[:2, 0], [50 * 2**0.5, 49.9], rtol=1e-6)
    assert not containing(spots, np.delete(FINE, 0, axis=0), 100.0).mask[:2].any()


@pytest.mark.parametrize("mpp", [0.1, 0.2519, 0.7])
def test_spots_on_edges_go_to_the_next_tile_whatever_the_rounding(mpp):
    y, x = np.divmod(np.arange(12 * 12), 12)
    corners = np.stack([x, y], axis=1) * 30.0 * mpp  # upper left corner of each tile
    tiles = corners / mpp * mpp + 15.0 * mpp
    assert containing(corners, tiles, 30.0 * mpp).index[:, 0].tolist() == list(range(144))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40), m=st.integers(0, 40), side=st.floats(20, 400), seed=st.integers(0, 99), grid=st.booleans())
def test_of_several_tiles_the_nearest_holds_a_spot(n, m, side, seed, grid):
    rng = np.random.default_rng(seed)
    spots = rng.uniform(0, 500, size=(n, 2))
    tiles = rng.permutation(grid_um(7, 7, 56.0))[:m] if grid else rng.uniform(0, 500, size=(m, 2))
    found = containing(spots, tiles, side)
    assert found.index.shape == (n, 1)
    for row, (x, y) in enumerate(spots):
        holds = [
            (np.hypot(x - tile_x, y - tile_y), tile)
            for tile, (tile_x, tile_y) in enumerate(tiles)
            if tile_x - side / 2 <= x < tile_x + side / 2 and tile_y - side / 2 <= y < tile_y + side / 2
        ]
        assert bool(found.mask[row, 0]) == bool(holds)
        if holds:
            assert found.index[row, 0] == min(holds)[1]
            assert found.distance[row, 0] == pytest.approx(min(holds)[0], rel=1e-6)
    down = children(found, m)
    assert sorted(down.index[down.mask].tolist()) == np.flatnonzero(found.mask[:, 0]).tolist()
    for tile, place in np.argwhere(down.mask):
        assert found.index[down.index[tile, place], 0] == tile
        assert down.distance[tile, place] == found.distance[down.index[tile, place], 0]
    assert all((np.diff(down.index[tile][down.mask[tile]]) > 0).all() for tile in range(m))


def test_parents_that_are_no_rows_are_named():
    with pytest.raises(StoreError, match="parents from -1 to 2 in a grid of 2 tiles"):
        parents([PARENT], center_um=FINE, coarse_center_um=COARSE[:2])
    with pytest.raises(StoreError, match="parents from -2 to 0 in a grid of 4 tiles"):
        parents([np.array([0, -2])], center_um=FINE[:2], coarse_center_um=COARSE)
    with pytest.raises(StoreError, match=r"parents of \[16\] patches for 3"):
        parents([PARENT], center_um=FINE[:3], coarse_center_um=COARSE)
    with pytest.raises(StoreError, match=r"1 tile.s. a patch, up to row 2: wanted one of 2 tiles"):
        children(parents([PARENT], center_um=FINE, coarse_center_um=COARSE), 2)
    with pytest.raises(StoreError, match="side_um = 0: give the side"):
        containing(FINE, COARSE, 0)
    with pytest.raises(StoreError, match=r"tile 0 lies at \[inf, 0.0\] um"):
        containing(FINE, np.array([[np.inf, 0.0]]), 10)


@pytest.fixture
def nested(make_store):
    """A store with spots, and grids of 50, 100 and 200 um over a disc of tissue, as featurize makes them."""
    store = make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28)})
    y, x = np.mgrid[:64, :64]
    tissue = np.hypot(x - 30, y - 33) < 22
    grids = {side: grid_centers(tissue, size_px=(2600, 2600), mpp=0.5, tile_um=side) for side in (50.0, 100.0, 200.0)}
    for side, grid in grids.items():
        up = nested_parents(grid, grids[2 * side], factor=2) if 2 * side in grids else None
        name = f"grid-{2 * side:g}um" if up is not None else None
        barcode = np.array([f"{r}x{c}" for r, c in grid.cells], dtype=np.str_)
        path = patches_path(store.path, "a1", patches=f"grid-{side:g}um")
        write_patches(path, Patches(grid.center_px, barcode, grid.cells, up, name), slide_id="a1")
    return store


def test_recorded_parents_are_where_geometry_puts_them(nested):
    for fine, coarse in ((50, 100), (100, 200)):
        up = nested.parents("a1", patches=f"grid-{fine}um", coarser=f"grid-{coarse}um")
        place = nested.parents("a1", patches=f"grid-{fine}um", coarser=f"grid-{coarse}um", side_um=coarse)
        np.testing.assert_array_equal(up.mask, place.mask)
        np.testing.assert_array_equal(up.index, place.index)
        np.testing.assert_allclose(up.distance[up.mask], fine / 2 * 2**0.5, rtol=1e-6)
        assert not up.mask.all()  # at the rim of the tissue coarse tiles were not kept
        down = nested.children("a1", patches=f"grid-{coarse}um", finer=f"grid-{fine}um")
        assert down.k == 4
        assert down.mask.sum() == up.mask.sum()
    recorded = nested.parents("a1", patches="grid-50um", coarser="grid-200um")
    by_place = nested.parents("a1", patches="grid-50um", coarser="grid-200um", side_um=200)
    assert (by_place.mask >= recorded.mask).all()  # the way there leads over tiles that were not kept
    np.testing.assert_array_equal(recorded.index[recorded.mask], by_place.index[recorded.mask])
    assert nested.children("a1", patches="grid-200um", finer="grid-50um").k == 16


def test_spots_find_their_tile_by_place(nested):
    with pytest.raises(StoreError, match=r"patch set spots does not nest in grid-200um: .*Give side_um"):
        nested.parents("a1", patches="spots", coarser="grid-200um")
    with pytest.raises(StoreError, match=r"leads? through grid-50um > grid-100um > grid-200um and no further"):
        nested.parents("a1", patches="grid-50um", coarser="spots")
    up = nested.parents("a1", patches="spots", coarser="grid-200um", side_um=200)
    spots, tiles = (nested.patches("a1", patches=name).center_px * 0.5 for name in ("spots", "grid-200um"))
    inside = (np.floor(spots[:, None] / 200) == np.floor(tiles / 200)).all(axis=2)
    np.testing.assert_array_equal(up.mask[:, 0], inside.any(axis=1))
    assert up.index[up.mask].tolist() == np.argwhere(inside)[:, 1].tolist()
    down = nested.children("a1", patches="grid-200um", finer="spots", side_um=200)
    assert down.index[down.mask].tolist() == np.argwhere(inside.T)[:, 1].tolist()


def test_every_kind_of_neighbour_comes_from_both_doors_and_stays_on_its_slide(nested):
    table = nested.table(KEY, slides=["b1", "a1"], expression=False)
    ways = (
        lambda places: places.nearest(6, self_included=True),
        lambda places: places.within_radius(450.0),
        lambda places: places.rings((0, 300, 600), 8),
        lambda places: places.lattice(3),
    )
    for way in ways:
        whole = way(table.places)
        start = 0
        for slide_id, n in (("b1", 28), ("a1", 25)):
            alone = way(nested.places(slide_id))
            rows = slice(start, start + n)
            width = alone.k
            assert not whole.mask[rows, width:].any()
            np.testing.assert_array_equal(whole.mask[rows, :width], alone.mask)
            np.testing.assert_array_equal(whole.index[rows, :width], np.where(alone.mask, alone.index + start, 0))
            np.testing.assert_array_equal(whole.distance[rows, :width], alone.distance)
            start += n
    np.testing.assert_array_equal(table.neighbours(5).index, table.places.nearest(5).index)
    np.testing.assert_array_equal(nested.neighbours("a1", 5).index, nested.places("a1").nearest(5).index)
    # 200 um apart on a 5 x 5 array.
    middle = nested.places("a1").lattice(3)
    assert middle.index[12].tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert nested.places("a1", patches="grid-100um").within_radius(100).k == 4


def test_neighbours_gather_features_and_selected_rows_keep_their_array(nested):
    table = nested.table(KEY, slides=["a1"], expression=False)
    window = table.places.lattice(3)
    gathered = table.features(rows=window.index, mask=window.mask)
    assert gathered.shape == (25, 9, 8)
    np.testing.assert_array_equal(gathered[12], table.features()[window.index[12]])
    assert not gathered[0][~window.mask[0]].any()
    rows = np.array([12, 7, 13, 6])
    part = table.select_rows(rows)
    direct = lattice(table.array[rows], 3, center_um=table.center_um[rows])
    np.testing.assert_array_equal(part.places.lattice(3).index, direct.index)
    assert rows[part.places.lattice(3).index[0]][part.places.lattice(3).mask[0]].tolist() == [6, 7, 12, 13]


def test_rows_without_an_array_have_no_window(nested):
    place = Patches(np.array([[10.0, 10.0], [20.0, 20.0]]), np.array(["one", "two"]))
    write_patches(patches_path(nested.path, "a1", patches="free"), place, slide_id="a1")
    assert nested.neighbours("a1", 1, patches="free").index.tolist() == [[1], [0]]
    with pytest.raises(StoreError, match=r"no array positions are known .*take nearest, within_radius or rings"):
        nested.places("a1", patches="free").lattice(3)
