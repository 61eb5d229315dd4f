"""From a slide to patches: exact fields at exact um/px, antialiased, with one rule at the borders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from ..store.arrays import Floats, Pixels
from .views import View

READING = "antialiased bilinear, mirrored borders, 1"
"""How pixels are cut, as part of every fingerprint: a reader that differs beyond rounding needs another name."""


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
class Field:
    """How one view is cut from one slide: the level to read, and the side of the field in that level's pixels."""

    level: int
    downsample: float
    side_level_px: float
    side_px: int


def plan_field(slide: Readable, view: View, *, mpp: float) -> Field:
    """Choose the coarsest level that is still at least as fine as the view.

    Downsamples are floats: a level at 3.9998 or 4.0002 serves a view at exactly 4 within 0.1 %.
    """
    wanted = view.mpp / mpp
    fine = [i for i, downsample in enumerate(slide.level_downsamples) if downsample <= max(wanted, 1.0) * 1.001]
    level = max(fine, key=lambda i: slide.level_downsamples[i])
    downsample = slide.level_downsamples[level]
    return Field(level, downsample, view.fov_um / mpp / downsample, view.side_px)


def read_patch(slide: Readable, field: Field, center_px: Floats) -> Pixels:
    """Read one patch.

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
    from PIL import Image

    x, y = (float(c) / field.downsample - field.side_level_px / 2 for c in center_px)
    # The triangle filter reaches one output pixel beyond the field on each side.
    reach = math.ceil(max(1.0, field.side_level_px / field.side_px)) + 1
    left, top = math.floor(x) - reach, math.floor(y) - reach
    right, bottom = (math.ceil(v + field.side_level_px) + reach for v in (x, y))
    region = _read_mirrored(slide, field.level, (left, top, right, bottom))
    box = (x - left, y - top, x - left + field.side_level_px, y - top + field.side_level_px)
    patch = Image.fromarray(region).resize((field.side_px, field.side_px), Image.Resampling.BILINEAR, box=box)
    return np.asarray(patch)


def _read_mirrored(slide: Readable, level: int, box: tuple[int, int, int, int]) -> Pixels:
    """Region of a level that may reach outside of it."""
    left, top, right, bottom = box
    width, height = slide.level_dimensions[level]
    x0, x1 = _clip(left, right, width)
    y0, y1 = _clip(top, bottom, height)
    inside = slide.read(level, x0, y0, x1 - x0, y1 - y0)
    pad = ((y0 - top, bottom - y1), (x0 - left, right - x1), (0, 0))
    if not any(amount for sides in pad for amount in sides):
        return inside
    return np.pad(inside, pad, mode="symmetric")


def _clip(start: int, stop: int, size: int) -> tuple[int, int]:
    """The part of [start, stop) inside [0, size); at least one pixel, so that there is something to mirror."""
    low = min(max(start, 0), size - 1)
    return low, max(min(stop, size), low + 1)


def read_thumbnail(slide: Readable, *, longest_px: int = 1024) -> Pixels:
    """Picture of the whole slide, at most `longest_px` long, from its coarsest sufficient level."""
    from PIL import Image

    width, height = slide.level_dimensions[0]
    factor = max(1.0, max(width, height) / longest_px)
    level = max(
        (i for i, d in enumerate(slide.level_downsamples) if d <= factor * 1.001),
        key=lambda i: slide.level_downsamples[i],
    )
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    columns, rows = slide.level_dimensions[level]
    # Read in bands: a coarse level can be missing, and a gigapixel level 0 does not fit in memory at once.
    band = max(1, int(64e6 // max(columns, 1)))
    edges = np.unique(np.clip(np.round(np.arange(0, rows + band, band)), 0, rows)).astype(int)
    out = np.empty((size[1], size[0], 3), dtype=np.uint8)
    for top, bottom in pairwise(edges):
        first, last = round(top / rows * size[1]), round(bottom / rows * size[1])
        if last > first:
            region = Image.fromarray(slide.read(level, 0, int(top), columns, int(bottom - top)))
            out[first:last] = np.asarray(region.resize((size[0], last - first), Image.Resampling.BOX))
    return out
