"""What bare glass looks like on a slide, how much light everything else absorbs, and what was never scanned."""

from __future__ import annotations

import numpy as np

from ...store.arrays import Bools, Floats, Pixels

BRIGHT = 0.8
"""Glass is at least this bright, as a share of the brightest 1 % of the thumbnail."""

MAX_TINT = 0.08
"""Largest difference of optical density between two channels of glass; beyond it the brightest area is tissue."""

DARK, WHITE, NEUTRAL = 0.15, 254, 6
"""Padding is darker than this share of the brightest 1 %, at least this white in 0..255, or one grey whose channels
differ by no more than this."""

WORKING_PX = 512
"""Wide filters run on a picture about this long: their result is as smooth, at a quarter of the work."""


def glass_color(thumbnail: Pixels, unscanned: Bools) -> Floats:
    """Colour of bare glass: the commonest brightness among the bright pixels, and its median colour.

    What is unscanned counts only where little else is bright. Where even that colour is tinted like a stain, no glass
    is in view, and a neutral lamp as bright as the brightest channel is assumed.

    Parameters
    ----------
    thumbnail
        (h, w, 3).
    unscanned
        (h, w), see `unscanned_mask`.

    Returns
    -------
    Floats
        (3,) float32 in 0..255.
    """
    from scipy import ndimage

    every = working_step(thumbnail.shape)
    thumbnail, unscanned = thumbnail[::every, ::every], unscanned[::every, ::every]
    brightness = _planes(thumbnail).mean(axis=0, dtype=np.float32)  # (h, w)
    bright = brightness >= BRIGHT * np.percentile(brightness, 99)
    scanned = bright & ~unscanned
    if scanned.sum() < 0.3 * bright.sum():
        scanned = bright
    values = brightness[scanned]
    counts = np.bincount(values.astype(np.intp), minlength=256).astype(np.float64)
    commonest = int(np.argmax(ndimage.gaussian_filter1d(counts, 2.0)))
    color = np.median(thumbnail[scanned][np.abs(values - commonest) < 4], axis=0).astype(np.float32)
    if np.log10((color.max() + 1) / (color.min() + 1)) > MAX_TINT:
        return np.full(3, float(np.percentile(thumbnail.max(axis=2), 99)), dtype=np.float32)
    return np.asarray(color)


def optical_density(thumbnail: Pixels, unscanned: Bools) -> Floats:
    """Optical density relative to the slide's own glass, (3, h, w) float32; 0 on glass, below 0 where brighter."""
    glass = glass_color(thumbnail, unscanned)
    transmitted = (np.arange(256, dtype=np.float32) + 1)[:, None] / (glass + 1)  # (256, 3)
    density = -np.log10(transmitted)
    return np.stack([density[plane, channel] for channel, plane in enumerate(_planes(thumbnail))])


def unscanned_mask(thumbnail: Pixels, *, side_px: int = 9) -> Bools:
    """Where nothing was scanned, (h, w): white, grey or black padding.

    Padding is plain over squares of `side_px` that are connected with the border of the thumbnail: white, black, or
    neutral and exactly uniform. Glass that is overexposed to one flat colour looks the same and is taken too, which
    costs nothing.
    """
    from scipy import ndimage

    planes = _planes(thumbnail)
    lowest, highest = planes.min(axis=0), planes.max(axis=0)  # (h, w)
    every = working_step(thumbnail.shape)
    uniform = highest - lowest <= NEUTRAL
    for level in (lowest, highest):
        uniform[1:] &= level[1:] == level[:-1]
        uniform[:, 1:] &= level[:, 1:] == level[:, :-1]
    black = highest < DARK * np.percentile(highest[::every, ::every], 99)
    # A square is uniform where all its pixels but the first row and column equal the ones before them.
    middles = ndimage.minimum_filter(uniform, size=side_px - 1, origin=-1)
    middles |= ndimage.minimum_filter((lowest >= WHITE) | black, size=side_px)
    labels, _ = ndimage.label(ndimage.maximum_filter(middles, size=side_px))
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, outer[outer > 0])


def working_step(shape: tuple[int, ...]) -> int:
    """Every how many pixels a thumbnail is sampled to be about `WORKING_PX` long."""
    return max(1, round(max(shape) / WORKING_PX))


def _planes(thumbnail: Pixels) -> Pixels:
    """Channels first, (3, h, w): reductions over the channels run ten times as fast."""
    return np.ascontiguousarray(np.moveaxis(thumbnail, 2, 0))
