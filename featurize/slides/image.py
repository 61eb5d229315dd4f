"""Images without a pyramid: decoded whole, with a pyramid of 2 x 2 means made in memory as it is asked for."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...store.arrays import Pixels
from ...store.errors import SlideError
from .slide import JPEG_MAGIC, check_region, on_white, tile_box, unreadable

MAX_WHOLE_PX = 1_500_000_000
"""Largest image that is decoded whole: 4.5 GB in memory. A header may claim any size."""

SMALLEST_LEVEL_PX = 512
TILE_PX = 512
_BAND_ROWS = 1024  # rows reduced at a time, so that the work needs little memory beside the result


class WholeSlide:
    """A slide whose level 0 is in memory.

    A level's pixel is the mean of 2 x 2 of the level before; at an odd border, of what is there. So downsamples are
    exact powers of two and dimensions are rounded up.

    Parameters
    ----------
    pixels
        (h, w, 3) level 0.
    metadata_mpp
        um/px, where the file says so in a way that can be trusted.
    reader
        Name of the decoder.
    """

    def __init__(self, path: Path, pixels: Pixels, *, metadata_mpp: float | None, reader: str) -> None:
        self._path = path
        self._levels = [pixels]
        self._lock = threading.Lock()
        self.height, self.width = pixels.shape[:2]
        self.metadata_mpp = metadata_mpp
        self.reader = reader
        self.bounds_px: tuple[int, int, int, int] | None = None
        smaller = max(0, math.ceil(math.log2(max(self.width, self.height) / SMALLEST_LEVEL_PX)))
        self.level_downsamples = tuple(float(2**i) for i in range(smaller + 1))
        self.level_dimensions = tuple(
            (math.ceil(self.width / d), math.ceil(self.height / d)) for d in self.level_downsamples
        )
        self.tile_px = ((TILE_PX, TILE_PX),) * len(self.level_dimensions)

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region of a level; see `Slide.read`."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        return self._level(level)[y_px : y_px + height_px, x_px : x_px + width_px].copy()

    def fetch_tile(self, level: int, column: int, row: int) -> None:
        """Nothing, of a tile that exists: the pixels are in memory."""
        tile_box(self, (level, column, row), self._path)

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """One tile, not copied; see `Slide.decode_tile`."""
        x, y, width, height = tile_box(self, (level, column, row), self._path)
        tile = self._level(level)[y : y + height, x : x + width]
        tile.flags.writeable = False
        return tile

    def _level(self, level: int) -> Pixels:
        with self._lock:  # the first reader makes the level, the others wait for it
            while len(self._levels) <= level:
                self._levels.append(_halved(self._levels[-1]))
        return self._levels[level]

    def close(self) -> None:
        """Let go of the pixels."""
        with self._lock:
            self._levels = [np.zeros((0, 0, 3), dtype=np.uint8)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_photo(path: Path) -> WholeSlide:
    """Open a JPEG or PNG.

    Orientation tags are not applied: spots are given in the pixels that are stored.

    Raises
    ------
    SlideError
        If the file is unreadable, truncated or damaged, too large to hold, or not 8-bit grey or RGB.
    """
    import imagecodecs

    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    is_jpeg = data.startswith(JPEG_MAGIC)
    check_whole_size(_header_size(path, is_jpeg=is_jpeg), path)
    # The decoder fills what is missing of a JPEG with grey and says nothing. Neither marker occurs inside coded pixels.
    if is_jpeg and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        msg = f"image {path} is truncated: its last scan has no end; copy it again"
        raise SlideError(msg)
    try:
        # Asking for RGB of a JPEG also turns grey into RGB, and refuses CMYK.
        pixels = imagecodecs.jpeg8_decode(data, outcolorspace="RGB") if is_jpeg else imagecodecs.png_decode(data)
    except RuntimeError as error:  # the base of every imagecodecs error
        msg = f"image {path} cannot be decoded ({error}): it is damaged, or not 8-bit grey or RGB"
        raise SlideError(msg) from error
    return WholeSlide(path, as_rgb(pixels, path), metadata_mpp=None, reader="imagecodecs")


def check_whole_size(size_px: tuple[int, int], path: Path) -> None:
    """Refuse to decode whole what would not fit.

    Raises
    ------
    SlideError
        If width x height is beyond `MAX_WHOLE_PX`.
    """
    width, height = size_px
    if width * height > MAX_WHOLE_PX:
        msg = (
            f"image {path} has {width} x {height} px in one piece; at most {MAX_WHOLE_PX / 1e9:g} Gpx are decoded "
            "whole. Convert it to a tiled, pyramidal TIFF."
        )
        raise SlideError(msg)


def as_rgb(pixels: Pixels, path: Path, *, associated: bool = False) -> Pixels:
    """Turn 8-bit grey (h, w), grey + alpha, RGB or RGBA (h, w, c) into RGB (h, w, 3), alpha on white.

    Parameters
    ----------
    associated
        As `on_white` has it.

    Raises
    ------
    SlideError
        If it is of another depth or kind.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > 4):
        msg = f"image {path} holds {pixels.dtype} of shape {pixels.shape}; wanted 8-bit grey or RGB: convert it"
        raise SlideError(msg)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    if channels == 3:
        return pixels
    if channels == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    return on_white(pixels, associated=associated) if channels in (2, 4) else np.repeat(pixels, 3, axis=2)


def _header_size(path: Path, *, is_jpeg: bool) -> tuple[int, int]:
    """Width and height as the header claims, without PIL's process-wide limit on pixels."""
    from PIL import JpegImagePlugin, PngImagePlugin

    opener = JpegImagePlugin.JpegImageFile if is_jpeg else PngImagePlugin.PngImageFile
    try:
        with opener(path) as header:
            return header.size
    except (SyntaxError, ValueError, OSError, EOFError) as error:
        msg = f"image {path} has a damaged header ({error}); copy it again"
        raise SlideError(msg) from error


def _halved(pixels: Pixels) -> Pixels:
    """Means of 2 x 2 (h, w, 3) -> (ceil(h / 2), ceil(w / 2), 3), rounded half up."""
    from PIL import Image

    height, width = pixels.shape[:2]
    half = np.empty((math.ceil(height / 2), math.ceil(width / 2), 3), dtype=np.uint8)
    for top in range(0, height, _BAND_ROWS):
        band = Image.fromarray(np.ascontiguousarray(pixels[top : top + _BAND_ROWS])).reduce(2)
        half[top // 2 : top // 2 + band.height] = np.asarray(band)
    return half
