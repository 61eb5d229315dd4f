"""Patches: exact fields from any level, antialiased as PIL does it, mirrored at the borders."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from tissuary.featurize.patches.field import plan_field, read_patch
from tissuary.featurize.patches.views import View
from tissuary.featurize.slides.thumbnail import read_thumbnail


@dataclass
class ArraySlide:
    """A pyramid in memory that refuses to read outside itself."""

    levels: list

    @property
    def level_dimensions(self):
        return tuple((level.shape[1], level.shape[0]) for level in self.levels)

    @property
    def level_downsamples(self):
        return tuple(self.levels[0].shape[1] / level.shape[1] for level in self.levels)

    def read(self, level, x_px, y_px, width_px, height_px):
        array = self.levels[level]
        assert x_px >= 0
        assert y_px >= 0
        assert x_px + width_px <= array.shape[1]
        assert y_px + height_px <= array.shape[0]
        return array[y_px : y_px + height_px, x_px : x_px + width_px]


def ramp(width, height):
    """Red grows with x, green with y, at known slopes: a patch's mean says where it was cut."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 128)], axis=2).round().astype(np.uint8)


def test_native_patches_are_the_very_pixels():
    image = np.random.default_rng(0).integers(0, 256, size=(300, 400, 3), dtype=np.uint8)
    slide = ArraySlide([image])
    field = plan_field(slide, View("v", 16.0, 0.5), mpp=0.5)
    np.testing.assert_array_equal(read_patch(slide, field, np.array([100.0, 200.0])), image[184:216, 84:116])


@pytest.mark.parametrize("center", [(200.0, 150.0), (201.3, 148.7)])
@pytest.mark.parametrize("fov_um", [64.0, 100.0, 37.5])
def test_resampling_is_pils_on_the_whole_image(center, fov_um):
    image = np.random.default_rng(1).integers(0, 256, size=(300, 400, 3), dtype=np.uint8)
    slide = ArraySlide([image])
    view = View("v", fov_um, 1.0)
    patch = read_patch(slide, plan_field(slide, view, mpp=0.5), np.array(center))
    half = fov_um / 0.5 / 2
    box = (center[0] - half, center[1] - half, center[0] + half, center[1] + half)
    whole = Image.fromarray(image).resize((view.side_px, view.side_px), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_allclose(patch.astype(int), np.asarray(whole).astype(int), atol=1)


@pytest.mark.parametrize("factor", [3.9998, 4.0002, 2.99, 31.99])
def test_odd_downsamples_cut_the_right_field(factor):
    full = ramp(3200, 3200)
    size = round(3200 / factor)
    coarse = np.asarray(Image.fromarray(full).resize((size, size), Image.Resampling.BOX))
    slide = ArraySlide([full, coarse])
    view = View("v", 800.0, 0.5 * max(4, round(factor)))
    field = plan_field(slide, view, mpp=0.5)
    assert field.level == 1
    patch = read_patch(slide, field, np.array([1650.0, 1450.0])).astype(float)
    # Mean of the ramp over the field is its value at the centre; its span is the field's share of the slide.
    assert patch[..., 0].mean() == pytest.approx(1650 * 255 / 3200, abs=0.7)
    assert patch[..., 1].mean() == pytest.approx(1450 * 255 / 3200, abs=0.7)
    assert patch[:, -1, 0].mean() - patch[:, 0, 0].mean() == pytest.approx(255 * 1600 / 3200, rel=0.04)


def test_the_coarsest_level_that_is_fine_enough_is_read():
    slide = ArraySlide([np.zeros((s, s, 3), np.uint8) for s in (1024, 512, 256)])
    levels = [plan_field(slide, View("v", 100.0, mpp), mpp=0.25).level for mpp in (0.125, 0.25, 0.49, 0.5, 0.99, 1, 8)]
    assert levels == [0, 0, 0, 1, 1, 2, 2]


def test_borders_mirror_the_tissue():
    image = np.random.default_rng(2).integers(1, 256, size=(80, 80, 3), dtype=np.uint8)
    slide = ArraySlide([image])
    field = plan_field(slide, View("v", 32.0, 1.0), mpp=1.0)
    patch = read_patch(slide, field, np.array([4.0, 76.0]))
    mirrored = np.pad(image, ((32, 32), (32, 32), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(patch, mirrored[76 - 16 + 32 : 76 + 16 + 32, 4 - 16 + 32 : 4 + 16 + 32])
    assert patch.min() > 0  # no silent black
    tiny = read_patch(slide, plan_field(slide, View("v", 300.0, 1.0), mpp=1.0), np.array([40.0, 40.0]))
    assert tiny.shape == (300, 300, 3)
    assert tiny.min() > 0


@pytest.mark.parametrize("shape", [(50, 70), (3000, 1000), (1025, 4100)])
def test_thumbnails_keep_the_aspect_and_the_mean(shape):
    image = ramp(shape[1], shape[0])
    thumbnail = read_thumbnail(ArraySlide([image]))
    assert max(thumbnail.shape) == min(1024, max(shape))
    np.testing.assert_allclose(thumbnail.mean((0, 1)), image.mean((0, 1)), atol=1.0)
