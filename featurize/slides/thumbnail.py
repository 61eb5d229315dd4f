"""A small picture of a whole slide."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...store.arrays import Pixels
from ..patches.field import Readable

BAND_PX = 64_000_000
"""Pixels read at a time: a coarse level can be missing, and a gigapixel level 0 does not fit in memory at once."""


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
    band = max(1, BAND_PX // max(columns, 1))
    edges = np.unique(np.clip(np.arange(0, rows + band, band), 0, rows)).astype(int)
    out = np.empty((size[1], size[0], 3), dtype=np.uint8)
    for top, bottom in pairwise(edges):
        first, last = round(top / rows * size[1]), round(bottom / rows * size[1])
        if last > first:
            region = Image.fromarray(slide.read(level, 0, int(top), columns, int(bottom - top)))
            out[first:last] = np.asarray(region.resize((size[0], last - first), Image.Resampling.BOX))
    return out
