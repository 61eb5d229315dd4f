"""Smooth random maps of a section, and their averages around spots."""

from __future__ import annotations

import math

import numpy as np

from ..store.arrays import Bools, Floats

MAP_UM = 4.0
"""Side of one map cell in um: a quarter of the finest structure that a map holds."""


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], *, sigma_um: float) -> Floats:
    """Draw a Gaussian random field of mean 0 and variance 1.

    White noise filtered with a Gaussian of standard deviation `sigma_um`; the correlation at distance d is
    exp(-d² / (4 sigma²)), which falls to 1/e at 2 sigma.

    Parameters
    ----------
    rng
        Source of the noise.
    shape
        Rows and columns, in map cells.
    sigma_um
        Standard deviation of the filter.

    Returns
    -------
    Floats
        `shape`, float32.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    # A wide field is smooth over many cells: it is drawn on every stride-th cell and interpolated.
    stride = max(1, int(sigma_um / MAP_UM / 6))
    sigma = sigma_um / MAP_UM / stride
    height, width = (math.ceil(n / stride) + 1 for n in shape)
    # Margins as wide as the filter: no mirrored edge, so that border and centre are equally random.
    pad = math.ceil(3 * sigma) + 1
    noise = rng.standard_normal((height + 2 * pad, width + 2 * pad), dtype=np.float32)
    # Filtered white noise has the variance of the squared kernel's integral, 1 / (4 pi sigma²).
    field = gaussian_filter(noise, sigma, truncate=3.0)[pad:-pad, pad:-pad] * np.float32(2 * math.sqrt(math.pi) * sigma)
    if stride == 1:
        return np.asarray(field[: shape[0], : shape[1]])
    whole = Image.fromarray(np.ascontiguousarray(field)).resize(
        (width * stride, height * stride), Image.Resampling.BICUBIC
    )
    return np.asarray(whole)[: shape[0], : shape[1]]


def logistic(values: Floats) -> Floats:
    """Map to (0, 1): the share of tissue that a latent occupies."""
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float32)


def ring_means(maps: Floats, inside: Bools, centers_um: Floats, *, inner_um: float, outer_um: float) -> Floats:
    """Mean of each map over the tissue in a ring around each centre.

    Parameters
    ----------
    maps
        (n_maps, h, w), cells of `MAP_UM`.
    inside
        (h, w), where the tissue is.
    centers_um
        (n, 2), x then y.
    inner_um, outer_um
        Radii; an inner radius of 0 makes a disc.

    Returns
    -------
    Floats
        (n, n_maps) float64; NaN where the ring holds no tissue.
    """
    height, width = inside.shape
    reach = math.ceil(outer_um / MAP_UM)
    means = np.full((len(centers_um), len(maps)), np.nan)
    for i, (x, y) in enumerate(np.asarray(centers_um) / MAP_UM - 0.5):  # cell j spans j..j+1, its middle is j + 0.5
        top, left = max(0, math.floor(y) - reach), max(0, math.floor(x) - reach)
        rows = slice(top, min(height, math.ceil(y) + reach + 1))
        columns = slice(left, min(width, math.ceil(x) + reach + 1))
        dy, dx = np.arange(rows.start, rows.stop) - y, np.arange(columns.start, columns.stop) - x
        square_um = (MAP_UM**2) * (dy[:, None] ** 2 + dx**2)
        ring = (square_um >= inner_um**2) & (square_um <= outer_um**2) & inside[rows, columns]
        if ring.any():
            means[i] = maps[:, rows, columns][:, ring].mean(axis=1, dtype=np.float64)
    return means
