"""Resampling as PIL does it, one patch at a time or in batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tissuary.featurize.patches.resampling import resample_pil, resample_regions
from tissuary.store.errors import SlideError


def by_pil(region, corner, side_px, out_px):
    x, y = corner
    box = (x, y, x + side_px, y + side_px)
    return np.asarray(Image.fromarray(region).resize((out_px, out_px), Image.Resampling.BILINEAR, box=box))


def batched(regions, corners, side_px, out_px):
    found = resample_regions(torch.from_numpy(regions), torch.from_numpy(corners), side_px=side_px, out_px=out_px)
    assert found.shape == (len(regions), 3, out_px, out_px)
    return found.permute(0, 2, 3, 1).numpy()


FACTORS = [0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    out_px=st.integers(2, 40),
    factor=st.one_of(st.floats(0.5, 8), st.sampled_from(FACTORS)),
    share=st.tuples(*[st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))] * 4),
    extra_px=st.sampled_from([(0, 0), (0, 0), (3, 0), (0, 3)]),
    seed=st.integers(0, 99),
)
def test_batches_are_as_pil_does_them(out_px, factor, share, extra_px, seed):
    side_px = out_px * factor
    height, width = (int(np.ceil(side_px)) + 4 + extra for extra in extra_px)
    regions = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    if seed % 2:
        regions = (regions > 127).astype(np.uint8) * 255  # edges everywhere
    corners = np.reshape(share, (2, 2)) * 4
    found = batched(regions, corners, side_px, out_px)
    for patch, region, corner in zip(found, regions, corners, strict=True):
        wanted = by_pil(region, corner, side_px, out_px)
        np.testing.assert_array_equal(resample_pil(region, corner, side_px=side_px, out_px=out_px), wanted)
        off = np.abs(patch.astype(int) - wanted)
        assert off.max() <= 1
        if height == width:
            assert (off > 0).mean() <= 0.002


def test_a_batch_larger_than_a_chunk_keeps_its_order():
    values = np.arange(70, dtype=np.uint8)
    regions = np.broadcast_to(values[:, None, None, None], (70, 9, 9, 3)).copy()
    found = batched(regions, np.full((70, 2), 0.4), 8.0, 4)
    np.testing.assert_array_equal(found[:, 0, 0, 0], values)
    assert (found == values[:, None, None, None]).all()


def test_halves_are_rounded_up():
    # Twice the size: the pixel between 0 and 2, a quarter of the way, is 0.5; three quarters, 1.5.
    region = np.zeros((2, 2, 3), np.uint8)
    region[:, 1] = 2
    found = batched(region[None], np.zeros((1, 2)), 2.0, 4)[0]
    np.testing.assert_array_equal(found[..., 0], [[0, 1, 2, 2]] * 4)
    np.testing.assert_array_equal(by_pil(region, (0, 0), 2, 4), found)


def test_halving_is_the_triangle_of_four_pixels():
    # Weights 1/8, 3/8, 3/8, 1/8 along x; a field two pixels from the border, on a flat y.
    line = np.array([0, 80, 160, 8, 240, 0, 0, 0], np.uint8)
    region = np.repeat(np.repeat(line[None, :, None], 8, axis=0), 3, axis=2)
    found = batched(region[None], np.full((1, 2), 2.0), 4.0, 2)[0]
    first = (80 + 3 * 160 + 3 * 8 + 240) / 8
    second = (8 + 3 * 240 + 0 + 0) / 8
    np.testing.assert_array_equal(found[0, :, 0], [int(first + 0.5), int(second + 0.5)])


def test_whole_pixels_are_not_resampled():
    region = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    patch = resample_pil(region, np.array([5.0, 3.0]), side_px=16.0, out_px=16)
    np.testing.assert_array_equal(patch, region[3:19, 5:21])
    np.testing.assert_array_equal(patch, by_pil(region, (5, 3), 16, 16))
    assert np.shares_memory(patch, region)


@pytest.mark.parametrize("corner", [(-0.5, 0.0), (0.0, 2.5)])
def test_fields_outside_their_region(corner):
    region = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(SlideError, match="outside its region of 10 x 10"):
        resample_pil(region, np.array(corner), side_px=8.0, out_px=4)
    with pytest.raises(SlideError, match="outside their regions of 10 x 10 px"):
        batched(region[None], np.array([corner]), 8.0, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_bytes():
    regions = np.random.default_rng(0).integers(0, 256, (40, 300, 300, 3), dtype=np.uint8)
    corners = np.random.default_rng(1).uniform(0, 8, (40, 2))
    found = resample_regions(torch.from_numpy(regions).cuda(), torch.from_numpy(corners), side_px=290.3, out_px=112)
    for patch, region, corner in zip(found.permute(0, 2, 3, 1).cpu().numpy(), regions, corners, strict=True):
        np.testing.assert_array_equal(patch, by_pil(region, corner, 290.3, 112))
