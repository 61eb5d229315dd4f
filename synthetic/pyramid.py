"""Pyramidal TIFF files that slide readers take for scans, and the mark of those whose picture is synthetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..store.arrays import Pixels

TILE_PX = 256
QUALITY = 85


def write_pyramid(
    path: Path, rgb: Pixels, *, mpp: float, smallest_px: int = 512, factor: int = 2, software: str | None = None
) -> None:
    """Write tiled JPEG levels, each a whole factor smaller than the one before, as pages of one TIFF.

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
    factor
        Downsample between levels; scanners use 2 or 4.
    software
        The tag Software; none where None.
    """
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        level = 0
        while level == 0 or max(rgb.shape[:2]) >= smallest_px:
            writer.write(
                _tiles(rgb),
                shape=rgb.shape,
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                photometric="rgb",  # what is passed in; the codec turns it into subsampled YCbCr
                resolution=(1e4 / (mpp * factor**level), 1e4 / (mpp * factor**level)),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                software=software or False,
                maxworkers=1,
            )
            rgb = _reduced(rgb, factor)
            level += 1


def _tiles(rgb: Pixels) -> Iterator[Pixels]:
    """Whole tiles, row by row; the last repeat the border, as black padding would ring into the picture."""
    height, width = rgb.shape[:2]
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            tile = rgb[top : top + TILE_PX, left : left + TILE_PX]
            missing = (TILE_PX - tile.shape[0], TILE_PX - tile.shape[1])
            yield np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else tile


def _reduced(rgb: Pixels, factor: int) -> Pixels:
    """Mean over factor x factor pixels; at an odd border, over what is there."""
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).reduce(factor))
