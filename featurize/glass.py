"""What bare glass looks like on a slide, how much light everything else absorbs, and what was never scanned."""

from __future__ import annotations

import numpy as np

from ..store.arrays import Bools, Floats, Pixels

BRIGHT = 0.8
"""Glass is at least this bright, as a share of the brightest 1 % of the thumbnail."""

MAX_TINT = 0.08
"""Largest difference of optical density between two channels of glass; beyond it the brightest area is tissue."""

DARK, WHITE, NEUTRAL = 0.15, 254, 6
"""Padding is darker than this share of the brightest 1 %, at least this white in 0..255, or one grey whose channels
differ by no more than this."""


def glass_color(thumbnail: Pixels) -> Floats:
    """Colour of bare glass: the commonest brightness among the bright pixels, and its median colour.

    Padding counts only where little else is bright. Where even that colour is tinted like a stain, no glass is in
    view, and a neutral lamp as bright as the brightest channel is assumed.

    Parameters
    ----------
    thumbnail
        (h, w, 3).

    Returns
    -------
    Floats
        (3,) float32 in 0..255.
    """
    from scipy import ndimage

    brightness = _planes(thumbnail).mean(axis=0, dtype=np.float32)  # (h, w)
    bright = brightness >= BRIGHT * np.percentile(brightness, 99)
    scanned = bright & ~_padding(thumbnail)
    if scanned.sum() < 0.3 * bright.sum():
        scanned = bright
    values = brightness[scanned]
    counts = np.bincount(values.astype(np.intp), minlength=256).astype(np.float64)
    commonest = int(np.argmax(ndimage.gaussian_filter1d(counts, 2.0)))
    color = np.median(thumbnail[scanned][np.abs(values - commonest) < 4], axis=0).astype(np.float32)
    if np.log10((color.max() + 1) / (color.min() + 1)) > MAX_TINT:
        return np.full(3, float(np.percentile(thumbnail.max(axis=2), 99)), dtype=np.float32)
    return np.asarray(color)


def optical_density(thumbnail: Pixels) -> Floats:
    """Optical density relative to the slide's own glass, (3, h, w) float32; 0 on glass, below 0 where brighter."""
    transmitted = (np.arange(256, dtype=np.float32) + 1)[:, None] / (glass_color(thumbnail) + 1)  # (256, 3)
    density = -np.log10(transmitted)
    return np.stack([density[plane, channel] for channel, plane in enumerate(_planes(thumbnail))])


def unscanned_mask(thumbnail: Pixels) -> Bools:
    """Where nothing was scanned, (h, w): white, grey or black padding, with the seam that blends into the slide.

    Padding reaches the border of the thumbnail and is white, black, or neutral and exactly uniform. Glass that is
    overexposed to one flat colour looks the same and is taken too, which costs nothing.
    """
    from scipy import ndimage

    seam_px = max(1, round(max(thumbnail.shape) / 512))
    return np.asarray(ndimage.binary_dilation(_padding(thumbnail), np.ones((3, 3)), iterations=seam_px))


def _padding(thumbnail: Pixels, *, side: int = 9) -> Bools:
    """Plain squares in connection with the border, (h, w)."""
    from scipy import ndimage

    planes = _planes(thumbnail)
    lowest, highest = planes.min(axis=0), planes.max(axis=0)  # (h, w)
    low = ndimage.minimum_filter(lowest, size=side)
    high = ndimage.maximum_filter(highest, size=side)
    black = high < DARK * np.percentile(highest, 99)
    # A uniform area has the same lowest and highest channel everywhere.
    level = (low == ndimage.maximum_filter(lowest, size=side)) & (high == ndimage.minimum_filter(highest, size=side))
    plain = (low >= WHITE) | black | (level & (highest - lowest <= NEUTRAL))
    plain = ndimage.maximum_filter(plain, size=side)
    border = np.ones_like(plain)
    border[1:-1, 1:-1] = False
    return np.asarray(ndimage.binary_propagation(plain & border, mask=plain), dtype=np.bool_)


def _planes(thumbnail: Pixels) -> Pixels:
    """Channels first, (3, h, w): reductions over the channels run ten times as fast."""
    return np.ascontiguousarray(np.moveaxis(thumbnail, 2, 0))
