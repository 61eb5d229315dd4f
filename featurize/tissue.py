"""Where the tissue is, and a grid of patch centres over it."""

from __future__ import annotations

import numpy as np

from ..store.arrays import Bools, Floats, Pixels

MIN_CONTRAST = 0.02
"""Smallest gap in optical-density spread between the two classes; below it the slide has one class only."""


def tissue_mask(thumbnail: Pixels) -> Bools:
    """Classical tissue mask: Otsu's threshold on chroma in optical density, then small specks and holes closed.

    Stains absorb unevenly over red, green and blue, glass and pen-free background absorb evenly; the spread of the
    three optical densities tells them apart whatever the lamp's brightness.

    Parameters
    ----------
    thumbnail
        (h, w, 3).

    Returns
    -------
    Bools
        (h, w). All False where nothing differs from the background.

    References
    ----------
    Otsu, N. (1979). A threshold selection method from gray-level histograms. IEEE Trans. SMC 9(1), 62-66.
    """
    from scipy import ndimage

    density = -np.log10((thumbnail.astype(np.float32) + 1.0) / 256.0)  # (h, w, 3)
    spread = density.max(axis=2) - density.min(axis=2)
    spread = ndimage.gaussian_filter(spread, 1.5)
    threshold, gap = _otsu(spread)
    if gap < MIN_CONTRAST:
        return np.zeros(spread.shape, dtype=np.bool_)
    mask = ndimage.binary_closing(spread > threshold, iterations=3)
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(mask, iterations=2))
    return np.asarray(mask, dtype=np.bool_)


def _otsu(values: Floats) -> tuple[float, float]:
    """Threshold of largest between-class variance, and the distance of the class means."""
    counts, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    total = np.cumsum(counts * middle)
    low = total[:-1] / np.maximum(below, 1)
    high = (total[-1] - total[:-1]) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (high - low) ** 2))
    return float(edges[best + 1]), float(high[best] - low[best])


def grid_centers(
    mask: Bools, *, size_px: tuple[int, int], stride_px: float, min_tissue: float = 0.5
) -> tuple[Floats, np.ndarray[tuple[int, int], np.dtype[np.int32]]]:
    """Centres of grid cells that hold enough tissue, row by row.

    Parameters
    ----------
    mask
        (h, w) tissue on a thumbnail of the slide.
    size_px
        Width and height of the slide, level 0.
    stride_px
        Side of a cell, level-0 pixels.
    min_tissue
        Smallest tissue fraction of a cell.

    Returns
    -------
    tuple
        Centres (n, 2) float64, x then y; and (n, 2) int32 row and column of the cell.
    """
    width, height = size_px
    columns, rows = max(1, int(width // stride_px)), max(1, int(height // stride_px))
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    scale_x, scale_y = mask.shape[1] / width, mask.shape[0] / height
    x = np.clip(np.round(np.arange(columns + 1) * stride_px * scale_x), 0, mask.shape[1]).astype(int)
    y = np.clip(np.round(np.arange(rows + 1) * stride_px * scale_y), 0, mask.shape[0]).astype(int)
    inside = (
        sums[y[1:, None], x[1:]] - sums[y[:-1, None], x[1:]] - sums[y[1:, None], x[:-1]] + sums[y[:-1, None], x[:-1]]
    )
    area = np.maximum((y[1:] - y[:-1])[:, None] * (x[1:] - x[:-1])[None, :], 1)
    cells = np.argwhere(inside / area >= min_tissue).astype(np.int32)  # (n, 2) row, column
    centers = (cells[:, ::-1].astype(np.float64) + 0.5) * stride_px
    return centers, cells
