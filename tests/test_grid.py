"""Grids: where tiles lie, how much tissue is under them, and which coarse tile holds a fine one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.featurize.tissue.grid import grid_centers, grid_name, nested_parents, nests
from tissuary.store.errors import ScaleError
from tissuary.store.naming import check_name

COARSE = {"deadline": None, "max_examples": 30}


@st.composite
def slides(draw):
    """Mask, size in px and um/px of a slide; thumbnail and slide need not be a whole multiple of one another."""
    height, width = draw(st.integers(3, 25)), draw(st.integers(3, 25))
    mask = np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < draw(st.sampled_from([0, 0.4, 1]))
    size_px = (draw(st.integers(width, 40 * width)), draw(st.integers(height, 40 * height)))
    return mask, size_px, draw(st.sampled_from([0.25, 0.499, 0.5, 0.69]))


def supersampled(mask, box, size_px, n=400):
    """Tissue share of a box (x0, y0, x1, y1) in slide px, from n x n points on the mask's own pixels."""
    x0, y0, x1, y1 = box
    x, y = (low + (np.arange(n) + 0.5) / n * (high - low) for low, high in ((x0, x1), (y0, y1)))
    columns = np.minimum((x / size_px[0] * mask.shape[1]).astype(int), mask.shape[1] - 1)
    rows = np.minimum((y / size_px[1] * mask.shape[0]).astype(int), mask.shape[0] - 1)
    return mask[np.ix_(rows, columns)].mean()


@settings(**COARSE)
@given(slides(), st.floats(0.11, 1.4), st.floats(0.5, 2.5))
def test_tiles_lie_in_their_cells_and_hold_the_tissue_they_say(slide, stride_share, overlap):
    mask, size_px, mpp = slide
    stride_um = max(size_px) * mpp * stride_share
    tile_um = stride_um * overlap
    grid = grid_centers(mask, size_px=size_px, mpp=mpp, tile_um=tile_um, stride_um=stride_um, min_tissue=0)
    stride_px, half = stride_um / mpp, tile_um / mpp / 2
    columns, rows = (max(1, int(side / stride_px * (1 + 1e-6))) for side in size_px)
    # All cells are there with min_tissue 0, each once and row by row.
    np.testing.assert_array_equal(grid.cells, np.stack(np.divmod(np.arange(rows * columns), columns), axis=1))
    assert ((grid.center_px > 0) & (grid.center_px < size_px)).all()
    for axis, count in enumerate((columns, rows)):
        if size_px[axis] >= stride_px:
            assert count * stride_px <= size_px[axis] * (1 + 1e-5)
            np.testing.assert_allclose(grid.center_px[:, axis], (grid.cells[:, 1 - axis] + 0.5) * stride_px)
        else:
            assert (grid.center_px[:, axis] == size_px[axis] / 2).all()
    for center, fraction in list(zip(grid.center_px, grid.tissue, strict=True))[:4]:
        box = (*np.maximum(center - half, 0), *np.minimum(center + half, size_px))
        assert fraction == pytest.approx(supersampled(mask, box, size_px), abs=0.02)


@settings(**COARSE)
@given(slides(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_tiles_with_too_little_tissue_are_left_out(slide, min_tissue):
    mask, size_px, mpp = slide
    tile_um = max(size_px) * mpp / 6.5
    every = grid_centers(mask, size_px=size_px, mpp=mpp, tile_um=tile_um, min_tissue=0)
    grid = grid_centers(mask, size_px=size_px, mpp=mpp, tile_um=tile_um, min_tissue=min_tissue)
    kept = every.tissue >= min_tissue - 1e-5
    np.testing.assert_array_equal(grid.cells, every.cells[kept])
    np.testing.assert_array_equal(grid.center_px, every.center_px[kept])
    assert len(grid) == kept.sum()


def test_the_fraction_is_the_area_and_not_a_count_of_thumbnail_pixels():
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, 5:] = True  # tissue from x = 500 px on
    grid = grid_centers(mask, size_px=(1000, 1000), mpp=0.5, tile_um=165.0, stride_um=165.0, min_tissue=0)
    assert len(grid) == 9  # 330 px a cell
    # The middle column spans 330 to 660 px: 160 of its 330 px are tissue.
    np.testing.assert_allclose(grid.tissue.reshape(3, 3), [[0, 160 / 330, 1]] * 3, rtol=1e-6)
    wide = grid_centers(mask, size_px=(1000, 1000), mpp=0.5, tile_um=330.0, stride_um=165.0, min_tissue=0)
    np.testing.assert_array_equal(wide.center_px, grid.center_px)
    # Tiles of 660 px: the first spans -165 to 495, the middle 165 to 825, the last 495 to 1155, of which 505 px exist.
    np.testing.assert_allclose(wide.tissue.reshape(3, 3), [[0, 325 / 660, 500 / 505]] * 3, rtol=1e-6)


def test_a_slide_smaller_than_a_cell_has_one_tile_in_its_middle():
    grid = grid_centers(np.ones((3, 5), dtype=bool), size_px=(50, 30), mpp=0.5, tile_um=112.0)
    np.testing.assert_array_equal(grid.center_px, [[25, 15]])
    np.testing.assert_array_equal(grid.cells, [[0, 0]])
    assert grid.tissue == 1
    strip = grid_centers(np.ones((1, 5), dtype=bool), size_px=(500, 30), mpp=0.5, tile_um=100.0)
    np.testing.assert_array_equal(strip.center_px, [[100, 15], [300, 15]])


def test_cells_that_fill_the_slide_exactly_all_exist():
    # 0.1 * 3 is above 0.3 in floating point; the third cell must not be lost to it.
    grid = grid_centers(np.ones((4, 4), dtype=bool), size_px=(30, 30), mpp=0.1, tile_um=1.0000000000000002)
    assert len(grid) == 9


def test_no_tissue_no_tiles():
    grid = grid_centers(np.zeros((4, 4), dtype=bool), size_px=(400, 400), mpp=0.5, tile_um=20.0)
    assert len(grid) == 0
    assert grid.center_px.shape == grid.cells.shape == (0, 2)
    assert (grid.center_px.dtype, grid.cells.dtype, grid.tissue.dtype) == (np.float64, np.int32, np.float32)


@settings(**COARSE)
@given(slides(), st.integers(2, 5), st.floats(4, 20))
def test_a_parent_contains_its_child(slide, factor, cells_across):
    mask, size_px, mpp = slide
    fine_um = max(size_px) * mpp / cells_across
    coarse_um = fine_um * factor
    fine = grid_centers(mask, size_px=size_px, mpp=mpp, tile_um=fine_um, min_tissue=0.1)
    coarse = grid_centers(mask, size_px=size_px, mpp=mpp, tile_um=coarse_um, min_tissue=0.3)
    parents = nested_parents(fine, coarse, factor=factor)
    assert parents.dtype == np.int32
    assert parents.shape == (len(fine),)
    half = coarse_um / mpp / 2 + 1e-6
    inside = (np.abs(fine.center_px[:, None] - coarse.center_px[None]) < half).all(axis=2)  # (n_fine, n_coarse)
    for i, parent in enumerate(parents):
        if parent >= 0:
            assert inside[i, parent]
        else:
            assert not inside[i].any()


@pytest.mark.parametrize(
    ("fine", "coarse", "factor"),
    [
        (56, 112, 2),
        (112, 448, 4),
        (0.1, 0.3, 3),
        (112, 112, None),
        (112, 56, None),
        (100, 250, None),
        (56, 112.1, None),
    ],
)
def test_grids_nest_by_whole_factors(fine, coarse, factor):
    assert nests(fine, coarse) == factor


def test_names_of_grids():
    assert grid_name(112.0, tile_um=112.0, min_tissue=0.5) == "grid-112um"
    assert grid_name(56.0, tile_um=112.0, min_tissue=0.1) == "grid-56um-tile112um-tissue0.1"
    assert grid_name(56.5, tile_um=56.5, min_tissue=1.0) == "grid-56.5um-tissue1"
    assert grid_name(100.3 - 0.2, tile_um=100.3, min_tissue=0.5) == "grid-100.1um-tile100.3um"


LENGTHS = st.integers(1, 10**7).map(lambda nm: nm / 1000)
GRIDS = st.tuples(LENGTHS, LENGTHS, st.integers(0, 1000).map(lambda permille: permille / 1000))


@given(GRIDS, GRIDS)
def test_different_grids_never_share_a_name(one, other):
    names = [grid_name(stride, tile_um=tile, min_tissue=tissue) for stride, tile, tissue in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert check_name(names[0], "patch set") == names[0]


@pytest.mark.parametrize("option", [{"mpp": 0}, {"tile_um": -1}, {"stride_um": 0}, {"tile_um": float("nan")}])
def test_lengths_must_be_positive(option):
    wanted = {"mpp": 0.5, "tile_um": 10.0, **option}
    with pytest.raises(ScaleError, match=f"{next(iter(option))}=.*give a positive number"):
        grid_centers(np.ones((4, 4), dtype=bool), size_px=(40, 40), **wanted)


@pytest.mark.parametrize("min_tissue", [-0.1, 1.5, float("nan")])
def test_the_tissue_fraction_must_be_one(min_tissue):
    with pytest.raises(ScaleError, match="give a number from 0 to 1"):
        grid_centers(np.ones((4, 4), dtype=bool), size_px=(40, 40), mpp=1.0, tile_um=10.0, min_tissue=min_tissue)
