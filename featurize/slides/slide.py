"""One door to every image: a slide is opened by whichever reader fits it, and read by level and region."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from ...store.arrays import Pixels
from ...store.errors import SlideError

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
HDF5_MAGIC = b"\x89HDF"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order


class Slide(Protocol):
    """An open image with its levels, finest first. Reading is safe from several threads at once."""

    @property
    def width(self) -> int:
        """Width of level 0, pixels."""
        ...

    @property
    def height(self) -> int:
        """Height of level 0, pixels."""
        ...

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, in its own pixels."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """How many level-0 pixels a pixel of each level spans; never rounded to a whole number."""
        ...

    @property
    def tile_px(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the native tiles of each level, in its own pixels; the cheapest units to read."""
        ...

    @property
    def metadata_mpp(self) -> float | None:
        """um per level-0 pixel as the file says, unchecked; None where it does not say."""
        ...

    @property
    def bounds_px(self) -> tuple[int, int, int, int] | None:
        """x, y, width and height of the part of level 0 that the scanner filled; None where the file does not say."""
        ...

    @property
    def reader(self) -> str:
        """Which library reads the pixels."""
        ...

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region.

        Parameters
        ----------
        level
            Index into `level_dimensions`.
        x_px, y_px, width_px, height_px
            The region in pixels of that level; it must lie inside the level.

        Returns
        -------
        Pixels
            (height_px, width_px, 3) RGB; what the slide does not cover is white.

        Raises
        ------
        SlideError
            If the region leaves the level, or its pixels are damaged.
        """
        ...

    def fetch_tile(self, level: int, column: int, row: int) -> Any:
        """Read what `decode_tile` needs of one tile from the file, without decoding it.

        Raises
        ------
        SlideError
            If there is no such tile, or the file does not hold all of its bytes.
        """
        ...

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """Turn what `fetch_tile` gave into pixels.

        Parameters
        ----------
        out
            Memory for a whole tile (h, w, 3), which a reader may decode into.

        Returns
        -------
        Pixels
            (h, w, 3) RGB of the tile, cropped to the level at the right and lower border; white where the slide has
            no data. It may share memory with the slide and must not be written to.

        Raises
        ------
        SlideError
            If there is no such tile, or its bytes are damaged.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def unreadable(path: Path, error: OSError) -> SlideError:
    """The error of an image that the file system does not give."""
    cause = error.strerror or error
    mend = "correct the path in the source or manifest, or the permission to read it"
    return SlideError(f"image {path} cannot be read ({cause}): {mend}")


def check_region(
    dimensions: tuple[tuple[int, int], ...], level: int, box: tuple[int, int, int, int], path: Path
) -> None:
    """Refuse a region (x, y, width, height) that leaves its level.

    Raises
    ------
    SlideError
        If it does, or the level does not exist.
    """
    if not 0 <= level < len(dimensions):
        msg = f"image {path} has levels 0 to {len(dimensions) - 1}; level {level} was asked for"
        raise SlideError(msg)
    x, y, width, height = box
    columns, rows = dimensions[level]
    if not (0 <= x < x + width <= columns and 0 <= y < y + height <= rows):
        msg = (
            f"image {path}: region x={x} y={y} of {width} x {height} px leaves level {level}, which has "
            f"{columns} x {rows} px"
        )
        raise SlideError(msg)


def tile_box(slide: Slide, tile: tuple[int, int, int], path: Path) -> tuple[int, int, int, int]:
    """Where a tile (level, column, row) lies: x, y, width and height in its level's pixels, cropped to the level.

    Raises
    ------
    SlideError
        If there is no such tile.
    """
    level, column, row = tile
    if not 0 <= level < len(slide.level_dimensions):
        msg = f"image {path} has levels 0 to {len(slide.level_dimensions) - 1}; a tile of level {level} was asked for"
        raise SlideError(msg)
    level_width, level_height = slide.level_dimensions[level]
    width, height = slide.tile_px[level]
    x, y = column * width, row * height
    if not (0 <= x < level_width and 0 <= y < level_height):
        msg = (
            f"image {path}: level {level} has {-(-level_width // width)} x {-(-level_height // height)} tiles; "
            f"that at column {column}, row {row} was asked for"
        )
        raise SlideError(msg)
    return x, y, min(width, level_width - x), min(height, level_height - y)


def on_white(pixels: Pixels, *, associated: bool = False) -> Pixels:
    """Lay pixels with opacity (h, w, 4) on white: (h, w, 3).

    Parameters
    ----------
    associated
        Colours were multiplied with the opacity already (TIFF's associated alpha), not left straight.
    """
    if (pixels[..., 3:] == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    weight = pixels[..., 3:].astype(np.uint16)
    if associated:
        return np.asarray(np.minimum(pixels[..., :3] + (255 - weight), 255), dtype=np.uint8)
    return ((pixels[..., :3] * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
