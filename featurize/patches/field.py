"""From a slide to patches: exact fields at exact um/px, antialiased, with one rule at the borders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...store.arrays import Floats, Ints, Pixels
from .resampling import resample_pil
from .views import View

READING = "antialiased bilinear, mirrored borders, 1"
"""How pixels are cut, as part of every fingerprint: a reader that differs beyond rounding needs another name."""

PRECUT_READING = "patches as another tool cut them, 1"
"""The same for patches that were cut already: HEST resizes without antialiasing, so that its patches of a finely
scanned slide are not those that would be cut here."""


class Readable(Protocol):
    """What this file needs of a slide."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level in its own pixels."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Exact downsample of each level."""
        ...

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Region (h, w, 3) in that level's pixels."""
        ...


@dataclass(frozen=True)
class PatchField:
    """How one view is cut from one slide: the level to read, and the side of the field in that level's pixels."""

    level: int
    downsample: float
    side_level_px: float
    side_px: int

    @property
    def reach_px(self) -> int:
        """How far outside the field pixels are used: the triangle filter reaches one output pixel beyond it."""
        return math.ceil(max(1.0, self.side_level_px / self.side_px)) + 1

    @property
    def region_px(self) -> int:
        """Side of the whole-pixel region that holds the field and the filter's reach, wherever its corner falls."""
        return math.ceil(self.side_level_px) + 1 + 2 * self.reach_px


def plan_field(slide: Readable, view: View, *, mpp: float) -> PatchField:
    """Choose the coarsest level that is still at least as fine as the view.

    Downsamples are floats: a level at 3.9998 or 4.0002 serves a view at exactly 4 within 0.1 %.
    """
    wanted = view.mpp / mpp
    fine = [i for i, downsample in enumerate(slide.level_downsamples) if downsample <= max(wanted, 1.0) * 1.001]
    level = max(fine, key=lambda i: slide.level_downsamples[i])
    downsample = slide.level_downsamples[level]
    return PatchField(level, downsample, view.fov_um / mpp / downsample, view.side_px)


def regions_of(field: PatchField, centers_px: Floats) -> tuple[Ints, Floats]:
    """Whole-pixel regions that hold the fields around centres.

    Parameters
    ----------
    centers_px
        (n, 2) level-0 pixels, x then y.

    Returns
    -------
    tuple
        Corners (n, 2) int64 of regions of `field.region_px`, in the level's pixels (they may lie outside of it), and
        the fields' own corners (n, 2) float64 inside their regions.
    """
    corner = centers_px / field.downsample - field.side_level_px / 2  # (n, 2)
    region = np.floor(corner).astype(np.int64) - field.reach_px
    return region, corner - region


def read_patch(slide: Readable, field: PatchField, center_px: Floats) -> Pixels:
    """Read one patch with one read of the slide; many patches are read faster through `PatchStream`.

    Parameters
    ----------
    center_px
        (2,) level-0 pixels, x then y.

    Returns
    -------
    Pixels
        (side, side, 3). Resampling is PIL's antialiased bilinear over the exact, fractional field. What lies outside
        the slide is filled by mirroring the tissue at the border: never silent black, and no white edge that a
        texture feature would see.
    """
    regions, corners = regions_of(field, np.asarray(center_px)[None])
    (left, top), side = regions[0].tolist(), field.region_px
    width, height = slide.level_dimensions[field.level]
    (x0, x1), (y0, y1) = inside(left, left + side, width), inside(top, top + side, height)
    pixels = slide.read(field.level, x0, y0, x1 - x0, y1 - y0)
    region = mirrored(pixels, left=x0 - left, top=y0 - top, side=side)
    return resample_pil(region, corners[0], side_px=field.side_level_px, out_px=field.side_px)


def inside(start: int, stop: int, size: int) -> tuple[int, int]:
    """The part of [start, stop) inside [0, size); at least one pixel, so that there is something to mirror."""
    low = min(max(start, 0), size - 1)
    return low, max(min(stop, size), low + 1)


def mirrored(pixels: Pixels, *, left: int, top: int, side: int) -> Pixels:
    """Fill a (side, side, 3) region whose `pixels` start at (left, top) by mirroring them at their borders."""
    height, width = pixels.shape[:2]
    pad = ((top, side - top - height), (left, side - left - width), (0, 0))
    if (height, width) == (side, side):
        return pixels
    return np.pad(pixels, pad, mode="symmetric")
