"""Tiled TIFF, OME included: tiles read and decoded one by one, through tifffile and its codecs."""

from __future__ import annotations

import logging
import math
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile

from ...store.arrays import Pixels
from ...store.errors import SlideError, TissuaryError
from .image import WholeSlide, as_rgb, check_whole_size
from .metadata import is_beside, ome_images, ome_pixels_of, ome_size, tiff_mpp
from .slide import Slide, check_region, tile_box
from .tiff_layout import J2K_YCBCR, Plane, TiffLevel, check_chain, check_colours, level_of, pyramid, without_extras

DAMAGED = (RuntimeError, ValueError, OSError, LookupError, ArithmeticError, TypeError, AttributeError, struct.error)
"""What tifffile and its codecs were seen to raise on bytes changed at random."""


SCANNED_COLOURS = (1, 2, 6)
"""TIFF photometric: grey with black as 0, RGB, YCbCr."""

SCENE_SCALE = 1.5
"""How many times coarser than the image that is read another may be and is still a scene, not an overview of one."""

_logger = logging.getLogger(__name__)


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
        levels: tuple[TiffLevel, ...],
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
        associated = self._levels[level].associated_alpha
        if len(planes) == 1 and fetched[0]:
            decoded = self._decoded(planes[0], index, fetched[0], out)
            return as_rgb(decoded, self._path, associated=associated)[:height, :width]
        tile = np.full((height, width, max(3, len(planes))), 255, dtype=np.uint8)
        for plane, data in zip(planes, fetched, strict=True):
            if data:
                tile[..., plane.channels] = self._decoded(plane, plane.first_tile + index, data, None)[:height, :width]
        return as_rgb(tile, self._path, associated=associated)

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
            _say_scenes(file, series, path)
            if not series.keyframe.is_tiled:
                return _decode_whole(path, series, mpp)
            levels = sorted((level_of(one) for one in pyramid(file, series, path)), key=lambda one: -one.width)
            slide = TiffSlide(path, file, tuple(levels), metadata_mpp=mpp)
        except TissuaryError:
            raise
        except DAMAGED as error:
            msg = f"image {path} cannot be read as TIFF ({error}): it is damaged or of an unknown kind"
            raise SlideError(msg) from error
        stack.pop_all()  # the slide closes the file
        return slide


def check_scanned_pages(path: Path) -> None:
    """Refuse a scanner's TIFF whose pixels OpenSlide would turn into 8-bit RGB in its own way, without a word.

    Raises
    ------
    SlideError
        If its scan is not 8-bit grey, RGB or YCbCr: another depth, negative, palette or print colours.
    """
    try:
        with tifffile.TiffFile(path) as file:
            check_chain(file, path)
            pages = [(page.bitspersample, page.photometric) for page in file.pages if page.is_tiled]
    except DAMAGED:  # what tifffile cannot read may still be known to OpenSlide, which says so otherwise
        return
    for bits, photometric in pages:
        if bits != 8 or photometric not in SCANNED_COLOURS:
            kind = getattr(photometric, "name", photometric)
            msg = f"image {path} holds {bits}-bit {kind}; wanted 8-bit grey, RGB or YCbCr: convert it"
            raise SlideError(msg)


def _decode_whole(path: Path, series: Any, mpp: float | None) -> WholeSlide:
    page, level = series.keyframe, level_of(series)
    check_whole_size((page.imagewidth, page.imagelength), path)
    if page.compression == J2K_YCBCR or any(0 in plane.sizes for plane in level.planes):
        pixels = _pasted(path, level, page.parent)  # colours to be converted, or strips left out
    else:
        pixels = series.asarray()
        if series.axes in ("CYX", "SYX"):
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
        elif pixels.ndim == 3:
            pixels = without_extras(pixels, page)
    pixels = as_rgb(pixels, path, associated=level.associated_alpha)
    return WholeSlide(path, pixels, metadata_mpp=mpp, reader="tifffile")


def _pasted(path: Path, level: TiffLevel, file: tifffile.TiffFile) -> Pixels:
    """Pixels of a level, strip by strip."""
    return TiffSlide(path, file, (level,), metadata_mpp=None).read(0, 0, 0, level.width, level.height)


def _say_scenes(file: Any, series: Any, path: Path) -> None:
    """Warn where an OME-TIFF holds other scenes than the one that is read; labels and overviews are none."""
    images = list(ome_images(file)) if file.is_ome else []
    if len(images) < 2:
        return
    main = ome_pixels_of(images, series.keyframe)
    area, mpp = series.keyframe.imagewidth * series.keyframe.imagelength, None if main is None else ome_size(main, "X")
    scenes = []
    for name, pixels in images:
        size_px = int(pixels.get("SizeX", 0)), int(pixels.get("SizeY", 0))
        own = ome_size(pixels, "X")
        alike = own / mpp < SCENE_SCALE if own and mpp else math.prod(size_px) > area / 10
        if alike and not is_beside(name):
            scenes.append((pixels is main, f"{name or 'without a name'} ({size_px[0]} x {size_px[1]} px)"))
    others = [text for is_main, text in scenes if not is_main]
    if others:
        read = next((text for is_main, text in scenes if is_main), f"the image of {series.shape}")
        _logger.warning(
            "image %s holds %d scenes: read is %s, the largest; left out is %s. Write each scene to a file of its own "
            "to read them all", path, len(others) + 1, read, ", ".join(others),
        )  # fmt: skip


def _paste(region: Pixels, tile: Pixels, *, x: int, y: int) -> None:
    """Copy the part of `tile` (h, w, c), whose corner lies at (x, y) of `region`, that falls inside of it."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + tile.shape[1], region.shape[1]), min(y + tile.shape[0], region.shape[0])
    region[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
