"""How a TIFF arranges its levels, planes and colours, as tifffile's pages tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..store.arrays import Pixels
from ..store.errors import SlideError

_PLAIN_COLOURS = (1, 2)  # TIFF photometric: grey with black as 0, RGB
_YCBCR = 6
_JPEG_KINDS = (6, 7, 33007, 34892)  # TIFF compressions that are JPEG, whose decoder also turns YCbCr into RGB


@dataclass(frozen=True)
class Plane:
    """One page's share of a level's colours: all of them, or one of three."""

    page: Any
    first_tile: int
    channels: slice
    tile_shape: tuple[int, int]  # rows, columns; a strip is a tile as wide as the image
    jpeg: dict[str, Any]  # what its tiles need for decoding, read once here: reading it later is not thread-safe


@dataclass(frozen=True)
class Level:
    """One resolution: its size in its own pixels, and where its colours lie."""

    width: int
    height: int
    planes: tuple[Plane, ...]


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
    """Refuse a `tifffile` series that is not one plane of 8-bit grey or RGB.

    Raises
    ------
    SlideError
        Naming its axes, shape and kind.
    """
    page = series.keyframe
    colours = _PLAIN_COLOURS + ((_YCBCR,) if page.compression in _JPEG_KINDS else ())
    planes = series.shape[0] if series.axes in ("CYX", "SYX") else 3
    if series.axes not in ("YX", "YXS", "CYX", "SYX") or planes != 3 or page.photometric not in colours:
        kind = getattr(page.photometric, "name", page.photometric)
        msg = (
            f"image {path} has axes {series.axes} of shape {series.shape} in {kind}; wanted one plane of grey or RGB: "
            "convert it"
        )
        raise SlideError(msg)
    if page.dtype != np.uint8:
        msg = f"image {path} holds {page.dtype}; wanted 8-bit grey or RGB: convert it"
        raise SlideError(msg)


def pyramid(file: Any, series: Any) -> list[Any]:
    """All levels of a series.

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
    return [*series.levels, *missed]


def level_of(series: Any) -> Level:
    """One level, with everything that its tiles need for decoding."""
    key = series.keyframe
    if key.is_tiled:
        shape = (key.tilelength, key.tilewidth)
    else:
        shape = (min(key.rowsperstrip, key.imagelength), key.imagewidth)
    tiles = -(-key.imagelength // shape[0]) * -(-key.imagewidth // shape[1])

    def plane(page: Any, first_tile: int, channels: slice) -> Plane:
        jpeg = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if key.compression in _JPEG_KINDS else {}
        return Plane(page, first_tile, channels, shape, jpeg)

    if series.axes == "CYX":  # a page for each colour
        planes = [plane(page, 0, slice(c, c + 1)) for c, page in enumerate(series.pages)]
    elif series.axes == "SYX":  # one page, first all red tiles, then green, then blue
        planes = [plane(series.pages[0], c * tiles, slice(c, c + 1)) for c in range(3)]
    else:
        planes = [plane(series.pages[0], 0, slice(0, 3))]
    return Level(key.imagewidth, key.imagelength, tuple(planes))


def without_extras(pixels: Pixels, page: Any) -> Pixels:
    """Drop a last sample that is not declared as alpha (1 or 2): it says nothing of opacity."""
    extras = page.extrasamples
    return pixels[..., : -len(extras)] if extras and extras[0] not in (1, 2) else pixels
