"""Tiled TIFF, OME included: tiles read and decoded one by one, through tifffile and its codecs."""

from __future__ import annotations

import math
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile

from ..store.arrays import Pixels
from ..store.errors import SlideError, TissuaryError
from .slide import Slide, check_region, tile_box
from .slide_metadata import tiff_mpp
from .slide_photo import WholeSlide, as_rgb, check_whole_size
from .slide_tiff_layout import Level, Plane, check_chain, check_colours, level_of, pyramid, without_extras

DAMAGED = (RuntimeError, ValueError, OSError, LookupError, ArithmeticError, TypeError, AttributeError, struct.error)
"""What tifffile and its codecs were seen to raise on bytes changed at random."""


class TiffSlide:
    """A tiled TIFF, read tile by tile.

    Parameters
    ----------
    file
        The open `tifffile.TiffFile`; closed with the slide.
    levels
        Finest first.
    metadata_mpp
        um/px, as the file says.
    reader
        Name of what reads it.

    Raises
    ------
    SlideError
        If a tile is too large to be decoded.
    """

    def __init__(
        self,
        path: Path,
        file: tifffile.TiffFile,
        levels: tuple[Level, ...],
        *,
        metadata_mpp: float | None,
        reader: str = "tifffile",
    ) -> None:
        self._path, self._file, self._levels = path, file, levels
        self._descriptor, self._file_bytes = file.filehandle.fileno(), file.filehandle.size
        self.reader = reader
        self.bounds_px: tuple[int, int, int, int] | None = None
        self.metadata_mpp = metadata_mpp
        self.width, self.height = levels[0].width, levels[0].height
        self.level_dimensions = tuple((level.width, level.height) for level in levels)
        # The mean over both axes, as OpenSlide has it: writers round a level's sides each in their own way.
        self.level_downsamples = tuple((self.width / w + self.height / h) / 2 for w, h in self.level_dimensions)
        self.tile_px = tuple(level.tile_px for level in levels)
        check_whole_size(max(self.tile_px, key=math.prod), path)

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region of a level; see `Slide.read`. Its tiles are decoded anew at each call."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        region = np.empty((height_px, width_px, 3), dtype=np.uint8)
        columns, rows = self.tile_px[level]
        for row in range(y_px // rows, (y_px + height_px - 1) // rows + 1):
            for column in range(x_px // columns, (x_px + width_px - 1) // columns + 1):
                tile = self.decode_tile(level, column, row, self.fetch_tile(level, column, row))
                _paste(region, tile, x=column * columns - x_px, y=row * rows - y_px)
        return region

    def fetch_tile(self, level: int, column: int, row: int) -> tuple[bytes, ...]:
        """Compressed bytes of one tile, of each colour plane; none where the file leaves the tile out."""
        tile_box(self, (level, column, row), self._path)
        index = self._index(level, column, row)
        return tuple(self._bytes_of(plane, plane.first_tile + index) for plane in self._levels[level].planes)

    def decode_tile(
        self, level: int, column: int, row: int, fetched: tuple[bytes, ...], *, out: Pixels | None = None
    ) -> Pixels:
        """Decode one tile; see `Slide.decode_tile`. Tiles that the file leaves out are white."""
        _, _, width, height = tile_box(self, (level, column, row), self._path)
        index, planes = self._index(level, column, row), self._levels[level].planes
        if len(planes) == 1 and fetched[0]:
            return as_rgb(self._decoded(planes[0], index, fetched[0], out), self._path)[:height, :width]
        tile = np.full((height, width, 3), 255, dtype=np.uint8)
        for plane, data in zip(planes, fetched, strict=True):
            if data:
                tile[..., plane.channels] = self._decoded(plane, plane.first_tile + index, data, None)[:height, :width]
        return tile

    def _index(self, level: int, column: int, row: int) -> int:
        """Index of a tile in each of its level's planes."""
        return row * -(-self._levels[level].width // self.tile_px[level][0]) + column

    def _bytes_of(self, plane: Plane, index: int) -> bytes:
        try:
            offset, size = plane.offsets[index], plane.sizes[index]
            # `pread` keeps no position, so threads need no lock. A damaged size may be beyond what memory can hold.
            data = os.pread(self._descriptor, min(size, self._file_bytes), offset)
        except DAMAGED as error:
            msg = f"image {self._path}: tile {index} cannot be read ({error}): the file is damaged"
            raise SlideError(msg) from error
        if len(data) < size:
            msg = f"image {self._path} is truncated: tile {index} ends after {len(data)} of {size} bytes"
            raise SlideError(msg)
        return data

    def _decoded(self, plane: Plane, index: int, data: bytes, out: Pixels | None) -> Pixels:
        try:
            return plane.decode(data, index, out)
        except DAMAGED as error:
            msg = f"image {self._path}: tile {index} cannot be decoded ({error}): the file is damaged"
            raise SlideError(msg) from error

    def close(self) -> None:
        """Let go of the file."""
        self._descriptor = -1  # the number may soon be another file's
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tiff(path: Path) -> Slide:
    """Open a TIFF: tile by tile where it is tiled, else decoded whole.

    Raises
    ------
    SlideError
        If it is damaged, or not 8-bit grey or RGB.
    ScaleError
        If its pixels are not square.
    """
    try:
        file = tifffile.TiffFile(path)
    except DAMAGED as error:
        msg = f"image {path} cannot be opened as TIFF ({error}): it is damaged; copy it again"
        raise SlideError(msg) from error
    with ExitStack() as stack:
        stack.callback(file.close)
        try:
            check_chain(file, path)
            # Labels and overviews, series of their own, are smaller.
            series = max(file.series, key=lambda one: one.keyframe.imagewidth * one.keyframe.imagelength)
            check_colours(series, path)
            mpp = tiff_mpp(file, series.keyframe, path)
            if not series.keyframe.is_tiled:
                return _decode_whole(path, series, mpp)
            levels = sorted((level_of(one) for one in pyramid(file, series)), key=lambda one: -one.width)
            slide = TiffSlide(path, file, tuple(levels), metadata_mpp=mpp)
        except TissuaryError:
            raise
        except DAMAGED as error:
            msg = f"image {path} cannot be read as TIFF ({error}): it is damaged or of an unknown kind"
            raise SlideError(msg) from error
        stack.pop_all()  # the slide closes the file
        return slide


def _decode_whole(path: Path, series: Any, mpp: float | None) -> WholeSlide:
    page = series.keyframe
    check_whole_size((page.imagewidth, page.imagelength), path)
    pixels = series.asarray()
    if series.axes in ("CYX", "SYX"):
        pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
    if pixels.ndim == 3:
        pixels = without_extras(pixels, page)
    return WholeSlide(path, as_rgb(pixels, path), metadata_mpp=mpp, reader="tifffile")


def _paste(region: Pixels, tile: Pixels, *, x: int, y: int) -> None:
    """Copy the part of `tile` (h, w, c), whose corner lies at (x, y) of `region`, that falls inside of it."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + tile.shape[1], region.shape[1]), min(y + tile.shape[0], region.shape[0])
    region[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
