"""Writing a picture as a pyramidal TIFF that slide readers take for a scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...store.arrays import Pixels

TILE_PX = 256
QUALITY = 85


def write_pyramid(path: Path, rgb: Pixels, *, mpp: float, smallest_px: int = 512) -> None:
    """Write tiled JPEG levels, each half of the one before, as pages of one TIFF.

    OpenSlide reads it as `generic-tiff`: whole pages marked as reduced images, and the resolution in pixels per
    centimetre, from which it derives um/px.

    Parameters
    ----------
    path
        The file to write.
    rgb
        (h, w, 3).
    mpp
        um per pixel of `rgb`.
    smallest_px
        No level is made whose longer side would be shorter than this.
    """
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        level = 0
        while level == 0 or max(rgb.shape[:2]) >= smallest_px:
            writer.write(
                rgb,
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                photometric="rgb",  # what is passed in; the codec turns it into subsampled YCbCr
                resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                software=False,
                maxworkers=1,
            )
            rgb = _halved(rgb)
            level += 1


def _halved(rgb: Pixels) -> Pixels:
    """Mean over 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = (n // 2 * 2 for n in rgb.shape[:2])
    # Sums of rows first: adjacent rows are contiguous, and 16 bits hold four pixels.
    rows = rgb[0:height:2, :width].astype(np.uint16)
    rows += rgb[1:height:2, :width]
    total = rows[:, 0::2]
    total += rows[:, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)
