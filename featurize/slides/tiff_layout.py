"""How a TIFF arranges its levels, planes and colours, as tifffile's pages tell."""

from __future__ import annotations

import logging
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np

from ...store.arrays import Pixels
from ...store.errors import SlideError

_PLAIN_COLOURS = (1, 2)  # TIFF photometric: grey with black as 0, RGB
_GREY = 1
_RGB = 2
_YCBCR = 6
_JPEG = 7
_ALPHA = (1, 2)  # TIFF extra samples: associated and unassociated alpha
_ASSOCIATED = 1
J2K_YCBCR = 33003
_JPEG_KINDS = (6, 7, 33007, 34892)  # TIFF compressions that are JPEG, whose decoder also turns YCbCr into RGB


_logger = logging.getLogger(__name__)


class TileDecoder(Protocol):
    """Decodes the tiles of a page."""

    def __call__(self, data: bytes, index: int, out: Pixels | None) -> Pixels:
        """(h, w, channels) from a tile's bytes and index, in `out` where it fits and the codec can."""
        ...


@dataclass(frozen=True)
class Plane:
    """One page's share of a level's colours: all of them, or one of three.

    All of it is read when the slide is opened: tifffile's pages read the file as they are asked, one thread at a time.
    """

    offsets: tuple[int, ...]  # of all the page's tiles in the file, bytes
    sizes: tuple[int, ...]  # bytes; 0 where the file leaves a tile out
    first_tile: int
    channels: slice
    decode: TileDecoder


@dataclass(frozen=True)
class TiffLevel:
    """One resolution: its size and that of its tiles in its own pixels, and where its colours lie."""

    width: int
    height: int
    tile_px: tuple[int, int]  # width, height; a strip is a tile as wide as the image
    planes: tuple[Plane, ...]
    associated_alpha: bool = False

    def __post_init__(self) -> None:
        for size_px in (self.width, self.height, *self.tile_px):
            operator.index(size_px)  # tags of a damaged file may come as fractions: TypeError


def check_chain(file: Any, path: Path) -> None:
    """Refuse a file whose pages point back at one another: tifffile would follow them for ever.

    Raises
    ------
    SlideError
        If they do.
    """
    seen: set[int] = set()
    for page in file.pages:
        if page.offset in seen:
            msg = f"image {path} is damaged: its page at byte {page.offset} comes again and again"
            raise SlideError(msg)
        seen.add(page.offset)


def check_colours(series: Any, path: Path) -> None:
    """Refuse a `tifffile` series that is not one plane of 8-bit grey or RGB, in a coding whose colours are known.

    Raises
    ------
    SlideError
        Naming its axes, shape and kind.
    """
    page = series.keyframe
    kind = getattr(page.photometric, "name", page.photometric)
    bits = page.bitspersample
    if page.dtype != np.uint8 or bits != 8:
        held = page.dtype if page.dtype != np.uint8 else f"{bits}-bit numbers"
        msg = f"image {path} holds {held}; wanted 8-bit grey or RGB: convert it"
        raise SlideError(msg)
    converted = page.compression in (*_JPEG_KINDS, J2K_YCBCR) and page.planarconfig == 1
    colours = (*_PLAIN_COLOURS, _YCBCR) if converted else _PLAIN_COLOURS
    alpha = bool(page.extrasamples) and page.extrasamples[0] in _ALPHA
    planes = series.shape[0] if series.axes in ("CYX", "SYX") else 3
    wanted = (3, 4) if series.axes == "SYX" and alpha else (3,)
    if series.axes not in ("YX", "YXS", "CYX", "SYX") or planes not in wanted or page.photometric not in colours:
        msg = (
            f"image {path} has axes {series.axes} of shape {series.shape} in {kind}; wanted one plane of grey or RGB: "
            "convert it"
        )
        raise SlideError(msg)
    if series.axes == "YXS" and page.photometric == _GREY and page.samplesperpixel > 1 and not alpha:
        msg = (
            f"image {path} has {page.samplesperpixel} samples of {kind}, which does not say that they are red, green "
            "and blue: write it as RGB"
        )
        raise SlideError(msg)
    for one in series.pages:
        if one is None or one.parent.filehandle is not series.parent.filehandle:
            where = "is missing" if one is None else f"lies in {one.parent.filehandle.name}"
            msg = f"image {path}: a part of it {where}; wanted one file with all of its pixels: convert it"
            raise SlideError(msg)


def pyramid(file: Any, series: Any, path: Path) -> list[Any]:
    """All levels of a series, those left out (with a line in the log) that are not of its shape or colours.

    tifffile recognises those that follow one another by one same factor of 2, 3 or 4; the others of the same shape
    that call themselves reduced are added.
    """
    key = series.keyframe
    missed = [
        other
        for other in file.series
        if other is not series
        and other.axes == series.axes
        and other.keyframe.is_reduced
        and other.keyframe.is_tiled
        # A label has a shape of its own, a level differs by the rounding of its sides.
        and abs(key.imagewidth * other.keyframe.imagelength / (key.imagelength * other.keyframe.imagewidth) - 1) < 0.02
    ]
    kept = [series]
    for level in (*series.levels[1:], *missed):
        try:
            check_colours(level, path)
        except SlideError as error:  # coarser levels only save time
            _logger.info("a level is left out: %s", error)
            continue
        if _is_scaled(key, level.keyframe) and not level.keyframe.is_mask:
            kept.append(level)
        else:
            _logger.info("image %s: its page of %s is a mask or of another shape, and no level", path, level.shape)
    return kept


def _is_scaled(large: Any, small: Any) -> bool:
    """Whether one page has the shape of another, but for 2 % or the rounding of sides to whole pixels."""
    across, down = large.imagewidth / small.imagewidth, large.imagelength / small.imagelength
    slack = 0.02 + 1 / min(small.imagewidth, small.imagelength)
    return bool(abs(across / down - 1) <= slack)


def level_of(series: Any) -> TiffLevel:
    """One level, with everything that its tiles need for decoding."""
    key = series.keyframe
    if key.is_tiled:
        tile_px = (key.tilewidth, key.tilelength)
    else:
        tile_px = (key.imagewidth, min(key.rowsperstrip, key.imagelength))
    tiles = -(-key.imagewidth // tile_px[0]) * -(-key.imagelength // tile_px[1])

    def plane(page: Any, first_tile: int, channels: slice) -> Plane:
        return Plane(page.dataoffsets, page.databytecounts, first_tile, channels, page_decoder(page))

    associated = bool(key.extrasamples) and key.extrasamples[0] == _ASSOCIATED
    if series.axes == "CYX":  # a page for each colour
        planes = [plane(page, 0, slice(c, c + 1)) for c, page in enumerate(series.pages)]
    elif series.axes == "SYX":  # one page, first all red tiles, then green, then blue
        planes = [plane(series.pages[0], c * tiles, slice(c, c + 1)) for c in range(series.shape[0])]
    else:
        planes = [plane(series.pages[0], 0, slice(0, 3))]
    return TiffLevel(key.imagewidth, key.imagelength, tile_px, tuple(planes), associated)


def page_decoder(page: Any) -> TileDecoder:
    """The decoder of a page's tiles: the JPEG codec itself where that is plain, else as tifffile has it."""
    key = page.keyframe
    tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if key.compression in _JPEG_KINDS else {}
    of_page = key.decode

    def decode(data: bytes, index: int, out: Pixels | None) -> Pixels:
        tile = of_page(data, index, **tables)[0][0]  # (1, h, w, c) -> (h, w, c)
        if key.compression == J2K_YCBCR and not _mixes_components(data):
            return ycbcr_to_rgb(tile)
        return without_extras(tile, key) if key.planarconfig == 1 else tile

    plain = (key.compression, key.samplesperpixel, key.planarconfig, key.jpegheader) == (_JPEG, 3, 1, None)
    if not plain or not key.is_tiled or key.extrasamples:
        return decode
    # As tifffile: the JPEG's own markers tell its colours, except that RGB without a JFIF marker is RGB.
    direct = jpeg_decoder(page, "RGB" if key.photometric == _RGB and not key.is_jfif else None)

    def decode_directly(data: bytes, index: int, out: Pixels | None) -> Pixels:
        try:
            return direct(data, index, out)
        except (RuntimeError, ValueError):  # a JPEG of another kind or size than its page: tifffile knows more of them
            return decode(data, index, None)

    return decode_directly


def jpeg_decoder(page: Any, colours: str | None) -> TileDecoder:
    """The JPEG codec for RGB tiles, told which colours a JPEG holds, or left to find out.

    Decoding into memory that is at hand is a fifth faster than into fresh memory, whose pages have to be made first.
    """
    key = page.keyframe
    tables, shape = page.jpegtables, (key.tilelength, key.tilewidth, 3)

    def decode(data: bytes, index: int, out: Pixels | None) -> Pixels:
        tile: Pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colours, outcolorspace="RGB", out=out)
        if tile.shape != shape:
            msg = f"a JPEG of shape {tile.shape} in place of {shape}"
            raise ValueError(msg)
        return tile

    return decode


def ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """RGB (h, w, 3) of full-range YCbCr, as JPEG has it (ITU-T T.871)."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels), mode="YCbCr").convert("RGB"))


def _mixes_components(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream says that its components are RGB, which its decoder gives back.

    Compression 33003 stands for tiles of YCbCr that are coded as they are. Some writers (tifffile) use it for RGB with
    JPEG 2000's own colour transform; the third byte from the end of its COD segment's general part says so
    (ISO/IEC 15444-1, A.6.1).
    """
    at = data.find(b"\xff\x4f\xff\x51") + 2
    while 2 <= at < len(data) - 9 and data[at : at + 2] != b"\xff\x90":
        if data[at : at + 2] == b"\xff\x52":
            return data[at + 8] == 1
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def without_extras(pixels: Pixels, page: Any) -> Pixels:
    """Drop a last sample that is not declared as alpha (1 or 2): it says nothing of opacity."""
    extras = page.extrasamples
    return pixels[..., : -len(extras)] if extras and extras[0] not in _ALPHA else pixels
