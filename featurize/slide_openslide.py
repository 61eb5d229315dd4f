"""Scanner formats, through OpenSlide."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from openslide import OpenSlide, OpenSlideError

from ..store.arrays import Pixels
from ..store.errors import SlideError, TissuaryError
from .slide import check_region, on_white
from .slide_metadata import square_mpp


class OpenSlideSlide:
    """A slide read by OpenSlide, whose handles may be read from several threads.

    OpenSlide is addressed in whole level-0 pixels: where a level's downsample is not a whole number (2.0005 in some
    Aperio files), a region of that level is interpolated at an offset of at most 0.5 / downsample of its pixels.

    Raises
    ------
    SlideError
        If OpenSlide cannot open the file.
    ScaleError
        If its pixels are not square.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = OpenSlide(path)
        except OpenSlideError as error:
            msg = f"image {path} cannot be opened by OpenSlide ({error}): it is damaged, or files beside it are missing"
            raise SlideError(msg) from error
        properties = self._handle.properties
        self.level_dimensions: tuple[tuple[int, int], ...] = self._handle.level_dimensions
        self.level_downsamples: tuple[float, ...] = self._handle.level_downsamples
        self.width, self.height = self.level_dimensions[0]
        self.reader = f"OpenSlide ({properties.get('openslide.vendor', 'unknown vendor')})"
        x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        try:
            self.metadata_mpp = square_mpp(x, y, path)
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

    def close(self) -> None:
        """Let go of the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
