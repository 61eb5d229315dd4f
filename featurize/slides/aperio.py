"""Aperio SVS: what the file says comes through OpenSlide, the pixels straight from the tiles where they are the same.

The format: Aperio, "Digital Slides and Third-Party Data Interchange": levels are the tiled pages of a TIFF, in order.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tifffile

from ...store.errors import SlideError
from .openslide_ import OpenSlideSlide
from .slide import Slide
from .tiff import DAMAGED, TiffSlide
from .tiff_layout import Plane, TiffLevel, check_chain, jpeg_decoder, page_decoder

_JPEG, _J2K_RGB = 7, 33005  # TIFF compressions; 33003, JPEG 2000 of YCbCr, is left to OpenSlide's own arithmetic
_COLOURS = {2: "RGB", 6: "YCBCR"}  # TIFF photometric, imagecodecs' colour space

_logger = logging.getLogger(__name__)


def open_aperio(path: Path) -> Slide:
    """Open an Aperio SVS, its tiles decoded directly where that gives the pixels that OpenSlide gives.

    That is so of JPEG and of RGB JPEG 2000, with a page for each of OpenSlide's levels and no tile left out: OpenSlide
    fills such tiles from the finer level. Everything else is read by OpenSlide, and the reason logged at debug.

    On levels whose downsample is not a whole number the direct path gives the level's own pixels, where OpenSlide
    interpolates.

    Raises
    ------
    SlideError
        If OpenSlide cannot open the file.
    ScaleError
        If its pixels are not square.
    """
    slide = OpenSlideSlide(path)
    try:
        direct = _open_direct(path, slide)
    except (SlideError, *DAMAGED) as error:
        _logger.debug("image %s is read through OpenSlide: %s", path, error)
        return slide
    slide.close()
    return direct


def _open_direct(path: Path, slide: OpenSlideSlide) -> TiffSlide:
    """The slide from its tiles; any error says why it has to be read by OpenSlide."""
    with ExitStack() as stack:
        file = stack.enter_context(tifffile.TiffFile(path))
        check_chain(file, path)
        pages = [page for page in file.pages if page.is_tiled]
        _check_levels(pages, slide)
        levels = tuple(_level_of(page) for page in pages)
        direct = TiffSlide(path, file, levels, metadata_mpp=slide.metadata_mpp, reader="tifffile (aperio)")
        stack.pop_all()  # the slide closes the file
    return direct


def _check_levels(pages: list[Any], slide: OpenSlideSlide) -> None:
    """Refuse pages whose tiles are not the pixels that OpenSlide shows.

    Raises
    ------
    ValueError
        Naming the difference.
    """
    sizes = tuple((page.imagewidth, page.imagelength) for page in pages)
    tiles = tuple((page.tilewidth, page.tilelength) for page in pages)
    if (sizes, tiles) != (slide.level_dimensions, slide.tile_px):
        msg = f"its tiled pages have {sizes} px, its levels {slide.level_dimensions}"
        raise ValueError(msg)
    for page in pages:
        if page.compression not in (_JPEG, _J2K_RGB) or page.photometric not in _COLOURS:
            msg = f"page {page.index} is compressed as {page.compression} in {page.photometric}"
            raise ValueError(msg)
        if (page.samplesperpixel, page.bitspersample, page.planarconfig) != (3, 8, 1):
            msg = f"page {page.index} has {page.samplesperpixel} samples of {page.bitspersample} bits"
            raise ValueError(msg)
        if 0 in page.databytecounts:
            msg = f"page {page.index} leaves out tiles"
            raise ValueError(msg)


def _level_of(page: Any) -> TiffLevel:
    decode = jpeg_decoder(page, _COLOURS[page.photometric]) if page.compression == _JPEG else page_decoder(page)
    plane = Plane(page.dataoffsets, page.databytecounts, 0, slice(0, 3), decode)
    return TiffLevel(page.imagewidth, page.imagelength, (page.tilewidth, page.tilelength), (plane,))
