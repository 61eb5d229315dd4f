"""Scanner formats, through OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from openslide import OpenSlide, OpenSlideError

from ...store.arrays import Pixels
from ...store.errors import SlideError, TissuaryError
from ...store.files.slide import openslide_bounds
from .image import check_whole_size
from .metadata import aperio_is_of, square_mpp
from .slide import check_region, on_white, tile_box

DEFAULT_TILE_PX = 512
"""Side of the tiles of formats that have none."""


class OpenSlideSlide:
    """A slide read by OpenSlide, whose handles may be read from several threads.

    OpenSlide is addressed in whole level-0 pixels: where a level's downsample is not a whole number (2.0005 in some
    Aperio files), a region of that level is interpolated at an offset of at most 0.5 / downsample of its pixels.

    Raises
    ------
    SlideError
        If OpenSlide cannot open the file, or its tiles are too large to be decoded.
    ScaleError
        If its pixels are not square.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = OpenSlide(path)
        except OpenSlideError as error:
            msg = (
                f"image {path} cannot be opened by OpenSlide ({error}): its coding is not known there, it is "
                "damaged, or files beside it are missing"
            )
            raise SlideError(msg) from error
        properties = self._handle.properties
        self.level_dimensions: tuple[tuple[int, int], ...] = self._handle.level_dimensions
        self.level_downsamples: tuple[float, ...] = self._handle.level_downsamples
        self.width, self.height = self.level_dimensions[0]
        self.tile_px = tuple(_tile_px(properties, level) for level in range(len(self.level_dimensions)))
        self.reader = f"OpenSlide ({properties.get('openslide.vendor', 'unknown vendor')})"
        self.bounds_px = openslide_bounds(properties)
        x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        try:
            # OpenSlide ends the whole process where it cannot get the memory for a tile.
            check_whole_size(max(self.tile_px, key=math.prod), path)
            self.metadata_mpp = square_mpp(x, y, path)
            if properties.get("openslide.vendor") == "aperio" and self.metadata_mpp is not None:
                description = properties.get("tiff.ImageDescription", "")
                if not aperio_is_of(description, self.level_dimensions[0], path):
                    self.metadata_mpp = None
        except TissuaryError:
            self._handle.close()
            raise

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region of a level; see `Slide.read`."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        downsample = self.level_downsamples[level]
        corner = (round(x_px * downsample), round(y_px * downsample))
        try:
            region = self._handle.read_region(corner, level, (width_px, height_px))
        except OpenSlideError as error:
            msg = f"image {self._path}: level {level} at x={x_px} y={y_px} cannot be read ({error}): it is damaged"
            raise SlideError(msg) from error
        return on_white(np.asarray(region))  # (h, w, 4) -> (h, w, 3)

    def fetch_tile(self, level: int, column: int, row: int) -> None:
        """Nothing, of a tile that exists: OpenSlide reads and decodes in one."""
        tile_box(self, (level, column, row), self._path)

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """Read one tile; see `Slide.decode_tile`."""
        return self.read(level, *tile_box(self, (level, column, row), self._path))

    def close(self) -> None:
        """Let go of the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tile_px(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Width and height of a level's tiles."""
    width, height = (properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
    return int(width or DEFAULT_TILE_PX), int(height or DEFAULT_TILE_PX)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
