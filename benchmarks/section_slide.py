"""A large slide for benchmarks: a real section as a JPEG-tiled pyramid, as scanners write it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..store.arrays import Pixels
from ..synthetic.pyramid import write_pyramid

SECTION = Path("her2st/data/ST-imgs/C/C2/5714_HE_BT_C2.jpg")
MPP = 0.5
"""um/px that the section is given: as if it had been scanned at 20x. It is a stretch of the truth (0.69)."""


def real_data() -> Path:
    """Folder of the real data.

    Raises
    ------
    SystemExit
        If it is not there.
    """
    folder = Path(os.environ.get("TISSUARY_DATA", Path(__file__).parents[1].resolve().parent / "shared" / "data"))
    if not (folder / SECTION).is_file():
        msg = f"no real section {folder / SECTION}: set TISSUARY_DATA to the folder that holds her2st/"
        raise SystemExit(msg)
    return folder


def section_pixels() -> Pixels:
    """The section (h, w, 3), about 9,270 x 9,910 px."""
    import imagecodecs

    pixels: Pixels = imagecodecs.jpeg8_decode((real_data() / SECTION).read_bytes(), outcolorspace="RGB")
    return pixels


def write_section_slide(path: Path, *, times: int = 1, factor: int = 4) -> Path:
    """Write the section as a slide, `times` x `times` of it side by side, at 0.5 um/px."""
    pixels = section_pixels()
    if times > 1:
        pixels = np.tile(pixels, (times, times, 1))
    write_pyramid(path, pixels, mpp=MPP, factor=factor)
    return path
