"""Levels of tokens from keys, cells onto cells by area, and tokens reduced once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tissuary.heads.networks.token_head import learn_components, reduced
from tissuary.heads.networks.tokens import aligned_levels, cells_onto, chosen_levels, grid_levels, level_of, rows_of
from tissuary.store.errors import HeadError
from tissuary.tests.token_tables import FINE_GRIDS, GRIDS, TILES, with_tokens

ROWS = {"toy@5x": (8,), "toy@20x": (8,)} | {key: (cells, 8) for key, cells in (TILES | GRIDS).items()}


def test_a_key_says_where_its_cells_lie():
    tiles = level_of("toy@20x.tiles4x4", (16, 8))
    assert (tiles.field_um, tiles.mpp, tiles.side, tiles.dim) == (448.0, 0.5, 4, 8)
    grid = level_of("uni2-h@224um-4.7.grid7x7", (49, 1536))
    assert (grid.field_um, grid.mpp, grid.side, grid.dim) == (224.0, 4.7, 7, 1536)
    assert level_of("toy@native.grid7x7", (49, 8)) is None
    assert level_of("toy@20x.grid4x7", (28, 8)) is None


def test_levels_are_tiles_of_one_region_or_one_grid_of_each_view():
    tiles = aligned_levels(ROWS, layout="auto", grid=7)
    assert [level.key for level in tiles] == ["toy@20x.tiles4x4", "toy@10x.tiles2x2", "toy@5x"]
    grids = aligned_levels(ROWS, layout="grid", grid=7)
    assert [level.key for level in grids] == list(GRIDS)
    only = {key: row for key, row in ROWS.items() if "tiles" not in key}
    assert aligned_levels(only, layout="auto", grid=7) == grids
    both = ROWS | {key: (cells, 8) for key, cells in FINE_GRIDS.items()}
    assert [level.side for level in grid_levels(both, grid=7)] == [7, 7, 7]
    assert [level.side for level in grid_levels(both, grid=14)] == [14, 14, 14]
    assert [level.side for level in grid_levels(ROWS, grid=14)] == [7, 7, 7]
    with pytest.raises(HeadError, match="layout='square': choose auto, tiles, grid"):
        aligned_levels(ROWS, layout="square", grid=7)


def test_grids_of_views_that_are_not_compared_are_left_out():
    table = with_tokens()
    one = replace(table, columns={"toy@20x": table.columns["toy@20x"]})
    assert set(rows_of(one)) == {"toy@20x", "toy@20x.grid7x7"}


def test_one_level_is_chosen_by_number_and_a_missing_one_named():
    levels = grid_levels(ROWS, grid=7)
    assert chosen_levels(levels, 1, head="h", make="m") == (levels[1],)
    assert chosen_levels(levels, "1", head="h", make="m") == (levels[1],)
    with pytest.raises(HeadError, match="levels='3': choose all, 0, 1, 2"):
        chosen_levels(levels, "3", head="h", make="m")
    with pytest.raises(HeadError, match=r"h with levels=2: .* have toy@20x.grid7x7, toy@10x.grid7x7. m"):
        chosen_levels(levels[:2], "2", head="h", make="m")
    with pytest.raises(HeadError, match=r"two levels or more, and these features have none. m$"):
        chosen_levels((), "all", head="h", make="m")


def test_cells_are_repeated_pooled_and_cropped():
    halves = np.repeat(np.eye(2), 2, axis=0)  # 2 -> 4 along one axis
    assert np.allclose(cells_onto(2, 448, to=4, to_field_um=448), np.kron(halves, halves))
    pairs = np.repeat(np.eye(7), 2, axis=1) / 2
    assert np.allclose(cells_onto(14, 112, to=7, to_field_um=112), np.kron(pairs, pairs))
    middle = np.eye(14)[5:9]
    assert np.allclose(cells_onto(14, 14, to=4, to_field_um=4), np.kron(middle, middle))
    between = (np.eye(14)[3:10] + np.eye(14)[4:11]) / 2  # the central half begins in the middle of a cell
    assert np.allclose(cells_onto(14, 224, to=7, to_field_um=112), np.kron(between, between))


@given(side=st.integers(1, 16), to=st.integers(1, 16), share=st.floats(0.1, 1.0))
def test_every_wanted_cell_is_a_mean_that_mirrors_with_the_square(side, to, share):
    weights = cells_onto(side, 100.0, to=to, to_field_um=100.0 * share).double()
    assert torch.allclose(weights.sum(1), torch.ones(to * to).double(), atol=1e-5)
    assert float(weights.min()) >= 0
    turned = weights.view(to, to, side, side).flip(0, 2).reshape(weights.shape)  # rows upside down
    assert torch.allclose(turned, weights, atol=1e-5)
    if share == 1.0:  # all of the square: cells of equal area keep the mean
        assert torch.allclose(weights.mean(0), torch.full((side * side,), 1 / side**2).double(), atol=1e-5)


def test_reduced_tokens_are_principal_components_of_the_training_tokens():
    table = with_tokens(dim=12)
    column = table.token_columns["toy@20x.grid7x7"]
    components = learn_components(table, (column, table.columns["toy@20x"]), size=3, seed=0)
    assert set(components) == {"mean toy@20x.grid7x7", "basis toy@20x.grid7x7"}  # whole-patch vectors stay as they are
    found = reduced(table, column, components)
    tokens = column.gather(table.slide, table.row).reshape(-1, 12).astype(np.float64)
    centred = tokens - tokens.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    spread = np.sqrt((values[:3] ** 2).mean() / len(centred))
    expected = centred @ directions[:3].T / spread
    got = found.gather(table.slide, table.row).reshape(-1, 3)
    signs = np.sign((expected * got).sum(0))
    assert np.allclose(got, expected * signs, atol=0.05)  # float16, and a fixed order of sums
    assert found.fingerprint != column.fingerprint
    some = table.select_rows(np.arange(0, len(table), 3))
    part = reduced(some, column, components)
    assert np.array_equal(part.gather(some.slide, some.row), found.gather(some.slide, some.row))
    assert reduced(table, table.columns["toy@20x"], components) is table.columns["toy@20x"]
