"""Where the tissue is on a slide, found on its thumbnail."""

from __future__ import annotations

import numpy as np

from ...store.arrays import Bools, Floats, Pixels
from .background import optical_density, unscanned_mask, working_step
from .pen import pen_mask

CHROMA_WEIGHT = 1 / 6
"""Weight of the mean chroma beside its local variation: a flat veil of leaked eosin must not outweigh pale tissue."""

THRESHOLD_RANGE = (0.007, 0.014)
"""Bounds of the threshold, optical density. Sensor grain and stitching stay below the first; on every stained section
tried, tissue rises above the second, also where no glass is in view and the histogram has one class only."""


MIN_LIGHT = 20
"""Brightness, 0..255, that the brightest 1 % of a slide must exceed. Below it one grey level is an optical density of
0.02, above the threshold for tissue: whatever is seen is the sensor's."""

LAG_PX, MIN_STRUCTURE = 2, 0.2
"""Pixels of the thumbnail that far apart, and the least correlation of their chroma in tissue: 0.4 and more on every
stained section tried, 0 in sensor noise, which is independent from pixel to pixel."""

FEW_PX = 64
"""Regions of fewer pixels are too small to tell: they stay where others do."""


def tissue_mask(thumbnail: Pixels) -> Bools:
    """Classical tissue mask: variation of chroma in optical density, split from glass by Otsu's threshold.

    Chroma is the part of the optical density that differs between the channels; glass, dust, shadows and coverslip
    edges absorb evenly and have none. Of its local mean square, the variation counts in full and the mean little, as
    tissue is structured while eosin that leaked onto the glass is a smooth veil. Fat, too pale for any threshold on
    colour, is found by its membranes. What is unscanned or under pen is set to glass first, see `unscanned_mask` and
    `pen_mask`. Regions whose chroma is noise, and all of a slide that is dark, are no tissue; see `why_blank`.

    Parameters
    ----------
    thumbnail
        (h, w, 3). Widths of all filters are shares of its longer side; they were set at 1024 px.

    Returns
    -------
    Bools
        (h, w). All False where nothing differs from the glass.

    References
    ----------
    Otsu, N. (1979). A threshold selection method from gray-level histograms. IEEE Trans. SMC 9(1), 62-66.
    """
    if _light(thumbnail) < MIN_LIGHT:
        return np.zeros(thumbnail.shape[:2], dtype=np.bool_)
    return _without_noise(*_coloured(thumbnail))


def why_blank(thumbnail: Pixels) -> str | None:
    """Return why a thumbnail without tissue has none, as far as that can be seen."""
    light = _light(thumbnail)
    if light < MIN_LIGHT:
        return f"the slide is dark: its brightest 1 % reaches {light:.0f} of 255"
    mask, density = _coloured(thumbnail)
    if mask.any() and not _without_noise(mask, density).any():
        return "its colours vary from pixel to pixel without any structure, as the noise of a sensor does"
    return None


def _light(thumbnail: Pixels) -> float:
    """Brightness of the brightest 1 % of a slide, 0..255."""
    every = working_step(thumbnail.shape)
    return float(np.percentile(thumbnail[::every, ::every].max(axis=2), 99))


def _coloured(thumbnail: Pixels) -> tuple[Bools, Floats]:
    """Where chroma is strong, (h, w), and the optical density before any smoothing, (3, h, w)."""
    from PIL import Image
    from scipy import ndimage

    longest = max(thumbnail.shape)
    unscanned = unscanned_mask(thumbnail)
    density = optical_density(thumbnail, unscanned)
    seam_px = max(1, round(longest / 512))  # padding blends into the slide
    unscanned = ndimage.binary_dilation(unscanned, np.ones((3, 3)), iterations=seam_px)
    density[:, unscanned] = 0
    unsmoothed = density
    sigma = max(1.0, 1.2 * longest / 1024)  # below one pixel, sensor grain would look like structure
    every = working_step(thumbnail.shape)
    density = np.stack([np.asarray(Image.fromarray(plane).reduce(every)) for plane in density])  # (3, h', w')
    sigma = (sigma**2 - (every**2 - 1) / 12) ** 0.5 / every  # what the averaging has not blurred
    density = ndimage.gaussian_filter(density, (0, sigma, sigma))
    pen = pen_mask(density)
    excluded = unscanned[::every, ::every] | pen
    if excluded.all():
        return np.zeros_like(unscanned), unsmoothed
    density[:, pen] = 0
    chroma = density - density.mean(axis=0)  # (3, h', w')
    signal = _signal(chroma, width_px=longest / 256 / every)
    threshold = float(np.clip(_otsu(signal[~excluded]), *THRESHOLD_RANGE))
    mask = _outlined(signal > threshold, np.linalg.norm(chroma, axis=0) > 2 * threshold)
    return _enlarged(mask & ~pen, unscanned.shape, factor=every), unsmoothed


def _without_noise(mask: Bools, density: Floats) -> Bools:
    """Connected regions whose chroma is alike in pixels `LAG_PX` apart, one below the other; noise is not."""
    from scipy import ndimage

    labels, regions = ndimage.label(mask)
    if not regions:
        return mask
    chroma = density - density.mean(axis=0)  # (3, h, w)
    inside = np.where(labels[LAG_PX:] == labels[:-LAG_PX], labels[LAG_PX:], 0).ravel()
    power = np.bincount(inside, np.einsum("chw,chw->hw", chroma, chroma)[LAG_PX:].ravel(), regions + 1)
    alike = np.bincount(inside, np.einsum("chw,chw->hw", chroma[:, LAG_PX:], chroma[:, :-LAG_PX]).ravel(), regions + 1)
    size_px = np.maximum(np.bincount(inside, minlength=regions + 1), 1)
    # By chance a correlation of noise, over three channels, is off by one by the root of their number.
    structured = alike > (MIN_STRUCTURE + 2 / np.sqrt(3 * size_px)) * power
    structured[0] = False
    structured &= size_px >= FEW_PX
    if structured.any():
        structured[1:] |= size_px[1:] < FEW_PX
    return np.asarray(structured[labels])


def _signal(chroma: Floats, *, width_px: float) -> Floats:
    """Root of the local variance of chroma plus its weighted squared mean; (h, w)."""
    from scipy import ndimage

    square_mean = (ndimage.gaussian_filter(chroma, (0, width_px, width_px)) ** 2).sum(axis=0)
    variance = np.maximum(ndimage.gaussian_filter((chroma**2).sum(axis=0), width_px) - square_mean, 0)
    return np.asarray(np.sqrt(variance + CHROMA_WEIGHT**2 * square_mean))


def _otsu(signal: Floats) -> float:
    """Threshold of largest between-class variance, on a logarithmic scale as tissue spans a decade."""
    floor = 0.002
    if np.ptp(signal) < floor / 100:  # no colour anywhere: rounding errors, too narrow for a histogram
        return floor
    counts, edges = np.histogram(np.log(signal + floor), bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    total = np.cumsum(counts * middle)
    low = total[:-1] / np.maximum(below, 1)
    high = (total[-1] - total[:-1]) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (high - low) ** 2))
    return float(np.exp(edges[best + 1]) - floor)


def _outlined(coarse: Bools, crisp: Bools) -> Bools:
    """Tissue with a sharp outline, without specks and small holes.

    Parameters
    ----------
    coarse
        Where the local signal is strong. Its filter reaches beyond the tissue; what is no wider than that reach goes.
    crisp
        Where the pixels themselves are coloured; closed over gaps, it cuts the outline.
    """
    from scipy import ndimage

    longest = max(coarse.shape)
    reach = max(1, round(longest / 256))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = x**2 + y**2 <= reach**2 + reach
    margin = 2 * reach  # a closing would retreat from the border of the thumbnail
    closed = ndimage.binary_closing(np.pad(crisp, margin, mode="edge"), disc, iterations=2)
    mask = ndimage.binary_opening(coarse, disc) & closed[margin:-margin, margin:-margin]
    mask = _without_specks(mask, smallest=(longest / 80) ** 2)
    return ~_without_specks(~mask, smallest=longest**2 / 1000)


def _without_specks(mask: Bools, *, smallest: float) -> Bools:
    """Connected regions of at least `smallest` pixels."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= smallest
    large[0] = False
    return np.asarray(large[labels])


def _enlarged(mask: Bools, shape: tuple[int, ...], *, factor: int) -> Bools:
    """The mask in the shape (h, w) that it was reduced from, with a smooth outline."""
    from PIL import Image

    height, width = shape
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    box = (0, 0, width / factor, height / factor)
    # A little below half: interpolation rounds convex corners off.
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box)) > 0.4 * 255
