"""TIFF that no scanner format claims, OME included: tiles decoded one by one through tifffile."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile

from ..store.arrays import Pixels
from ..store.errors import SlideError, TissuaryError
from .slide import Slide, check_region
from .slide_metadata import tiff_mpp
from .slide_photo import WholeSlide, as_rgb, check_whole_size
from .slide_tiff_layout import Level, Plane, check_chain, check_colours, level_of, pyramid, without_extras

CACHE_BYTES = 64 * 2**20
"""Decoded tiles that are kept: patches overlap, and a tile is shared by several."""

_DAMAGED = (RuntimeError, ValueError, OSError, LookupError, ArithmeticError, TypeError, AttributeError, struct.error)
"""What tifffile and its codecs were seen to raise on bytes changed at random."""


class TiffSlide:
    """A tiled TIFF, read tile by tile.

    Parameters
    ----------
    file
        The open `tifffile.TiffFile`; closed with the slide.
    levels
        Finest first.
    """

    def __init__(
        self, path: Path, file: tifffile.TiffFile, levels: tuple[Level, ...], *, metadata_mpp: float | None
    ) -> None:
        self._path, self._file, self._levels = path, file, levels
        self._file_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cached_bytes = 0
        self.reader = "tifffile"
        self.metadata_mpp = metadata_mpp
        self.width, self.height = levels[0].width, levels[0].height
        self.level_dimensions = tuple((level.width, level.height) for level in levels)
        # The mean over both axes, as OpenSlide has it: writers round a level's sides each in their own way.
        self.level_downsamples = tuple((self.width / w + self.height / h) / 2 for w, h in self.level_dimensions)

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region of a level; see `Slide.read`. Tiles that the file leaves out are white."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        region = np.full((height_px, width_px, 3), 255, dtype=np.uint8)
        for plane in self._levels[level].planes:
            rows, columns = plane.tile_shape
            across = -(-self._levels[level].width // columns)
            for row in range(y_px // rows, (y_px + height_px - 1) // rows + 1):
                for column in range(x_px // columns, (x_px + width_px - 1) // columns + 1):
                    tile = self._tile(plane, plane.first_tile + row * across + column)
                    if tile is not None:
                        _paste(region[..., plane.channels], tile, x=column * columns - x_px, y=row * rows - y_px)
        return region

    def _tile(self, plane: Plane, index: int) -> Pixels | None:
        """One decoded tile, from the cache where it is there; None where the file leaves it out."""
        key = (plane.page.offset, index)
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        tile = self._decode(plane, index)
        if tile is not None:
            with self._cache_lock:
                if key not in self._cache:
                    self._cache[key] = tile
                    self._cached_bytes += tile.nbytes
                while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                    self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, plane: Plane, index: int) -> Pixels | None:
        try:
            offset, size = plane.page.dataoffsets[index], plane.page.databytecounts[index]
            if size == 0:
                return None
            with self._file_lock:
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(size)
            if len(data) < size:
                msg = f"image {self._path} is truncated: tile {index} ends after {len(data)} of {size} bytes"
                raise SlideError(msg)
            # Decoding needs no lock, and the codecs release the interpreter's.
            tile = plane.page.keyframe.decode(data, index, **plane.jpeg)[0][0]  # (1, h, w, c) -> (h, w, c)
        except SlideError:
            raise
        except _DAMAGED as error:
            msg = f"image {self._path}: tile {index} cannot be decoded ({error}): the file is damaged"
            raise SlideError(msg) from error
        return as_rgb(without_extras(tile, plane.page.keyframe), self._path) if tile.shape[2] > 1 else tile

    def close(self) -> None:
        """Let go of the file and the tiles."""
        with self._cache_lock:
            self._cache.clear()
            self._cached_bytes = 0
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
    except _DAMAGED as error:
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
        except _DAMAGED as error:
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
