"""Token grids: area means with exact overlaps."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tissuary.featurize.backbones.encoder import pooled_grid
from tissuary.store.errors import BackboneError


def test_14_to_7_is_the_mean_of_two_by_two():
    tokens = torch.randn(2, 196, 5, generator=torch.Generator().manual_seed(0))
    maps = tokens.view(2, 14, 14, 5)
    means = (maps[:, ::2, ::2] + maps[:, 1::2, ::2] + maps[:, ::2, 1::2] + maps[:, 1::2, 1::2]) / 4
    torch.testing.assert_close(pooled_grid(tokens, grid=(14, 14), to=(7, 7)), means.reshape(2, 49, 5))


def test_tokens_on_a_border_count_by_their_share():
    # Three tokens to two cells: the middle one lies half in each, so a cell is (2 a + b) / 3.
    tokens = torch.tensor([[[3.0], [6.0], [30.0]]])
    found = pooled_grid(tokens, grid=(1, 3), to=(1, 2))
    torch.testing.assert_close(found, torch.tensor([[[4.0], [22.0]]]))


def test_16_to_7_integrates_the_piecewise_constant_map():
    # Of the map that is the row's number, cell 1 covers rows 16/7 to 32/7.
    rows = torch.arange(16.0)[:, None].expand(16, 16).reshape(1, 256, 1)
    found = pooled_grid(rows, grid=(16, 16), to=(7, 7)).view(7, 7)
    second = (2 * Fraction(5, 7) + 3 + 4 * Fraction(4, 7)) / Fraction(16, 7)
    torch.testing.assert_close(found[1], torch.full((7,), float(second)))
    torch.testing.assert_close(
        pooled_grid(rows, grid=(16, 16), to=(16, 7)).view(16, 7), torch.arange(16.0)[:, None].expand(16, 7)
    )


grids = st.tuples(st.integers(1, 17), st.integers(1, 17))


@given(grids, st.data(), st.floats(-1e4, 1e4, width=32))
def test_means_and_flat_maps_are_kept(grid, data, value):
    to = (data.draw(st.integers(1, grid[0])), data.draw(st.integers(1, grid[1])))
    cells = grid[0] * grid[1]
    flat = pooled_grid(torch.full((1, cells, 2), value), grid=grid, to=to)
    assert torch.equal(flat, torch.full((1, to[0] * to[1], 2), value))
    tokens = torch.randn(2, cells, 3, generator=torch.Generator().manual_seed(cells))
    torch.testing.assert_close(pooled_grid(tokens, grid=grid, to=to).mean(1), tokens.mean(1))


def test_integer_ratios_are_adaptive_pooling():
    tokens = torch.randn(3, 12 * 8, 4, generator=torch.Generator().manual_seed(1))
    wanted = torch.nn.functional.adaptive_avg_pool2d(tokens.view(3, 12, 8, 4).permute(0, 3, 1, 2), (4, 2))
    found = pooled_grid(tokens, grid=(12, 8), to=(4, 2))
    torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2))


def test_the_same_grid_and_dtype_stay():
    tokens = torch.randn(1, 16, 2).half()
    assert torch.equal(pooled_grid(tokens, grid=(4, 4), to=(4, 4)), tokens)
    assert pooled_grid(tokens, grid=(4, 4), to=(2, 2)).dtype == torch.float16


@pytest.mark.parametrize("to", [(8, 7), (7, 8), (0, 7)])
def test_a_grid_that_the_tokens_do_not_have(to):
    with pytest.raises(BackboneError, match="from 7 x 7 tokens: ask for at most 7 x 7"):
        pooled_grid(torch.zeros(1, 49, 2), grid=(7, 7), to=to)


def test_another_number_of_tokens():
    with pytest.raises(BackboneError, match=r"tokens \(1, 48, 2\): a grid of 7 x 7 wants \(b, 49, d\)"):
        pooled_grid(torch.zeros(1, 48, 2), grid=(7, 7), to=(7, 7))
