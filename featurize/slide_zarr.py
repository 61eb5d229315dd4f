"""Slides kept as OME-Zarr, as the images of SpatialData are: one array a level, read chunk by chunk.

OME-NGFF 0.4 (zarr 2, `multiscales` in the group's attributes) and 0.5 (zarr 3, below `ome`).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..store.arrays import Pixels
from ..store.errors import ScaleError, SlideError
from .slide import check_region, tile_box
from .slide_photo import as_rgb

LARGEST_TILE_PX = 1024
"""Chunks beyond this are cut into tiles of it; some writers make one chunk of a whole image."""

MICROMETRES = ("micrometer", "micrometre", "um", "µm", "micron")

_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError)
"""What zarr raises on groups that are damaged or of another kind."""


class ZarrSlide:
    """A slide whose levels are zarr arrays, with one, three or four channels of bytes.

    Parameters
    ----------
    levels
        Arrays, finest first.
    axes
        Name of each of their axes, "c", "y" and "x" among them.
    downsamples
        How many level-0 pixels a pixel of each spans.
    """

    def __init__(
        self, path: Path, levels: list[Any], *, axes: str, downsamples: tuple[float, ...], metadata_mpp: float | None
    ) -> None:
        self._path, self._levels, self._axes = path, levels, axes
        self.metadata_mpp = metadata_mpp
        self.reader = "zarr"
        self.bounds_px: tuple[int, int, int, int] | None = None
        self.level_downsamples = downsamples
        self.level_dimensions = tuple((one.shape[axes.index("x")], one.shape[axes.index("y")]) for one in levels)
        self.width, self.height = self.level_dimensions[0]
        self.tile_px = tuple(
            (min(one.chunks[axes.index("x")], LARGEST_TILE_PX), min(one.chunks[axes.index("y")], LARGEST_TILE_PX))
            for one in levels
        )

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Read a region of a level; see `Slide.read`."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        window = {"x": slice(x_px, x_px + width_px), "y": slice(y_px, y_px + height_px)}
        at = tuple(window.get(axis, slice(None) if axis == "c" else 0) for axis in self._axes)
        try:
            pixels = np.asarray(self._levels[level][at])
        except _DAMAGE as error:
            msg = f"image {self._path}: level {level} cannot be read ({error}): it is damaged, write it again"
            raise SlideError(msg) from error
        left = [axis for axis in self._axes if axis in "cyx"]
        pixels = pixels.transpose([left.index(axis) for axis in ("y", "x", "c") if axis in left])
        return np.ascontiguousarray(as_rgb(pixels, self._path))

    def fetch_tile(self, level: int, column: int, row: int) -> None:
        """Nothing, of a tile that exists: zarr reads and decodes at once."""
        tile_box(self, (level, column, row), self._path)

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """One tile; see `Slide.decode_tile`."""
        return self.read(level, *tile_box(self, (level, column, row), self._path))

    def close(self) -> None:
        """Let go of the arrays."""
        self._levels = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_zarr(path: Path) -> bool:
    """Whether a path is the folder of a zarr group."""
    try:
        return any((path / name).is_file() for name in ("zarr.json", ".zattrs"))
    except OSError:  # what may not be looked at is told by the reader that is tried next
        return False


def open_zarr(path: Path) -> ZarrSlide:
    """Open the group of an OME-Zarr image.

    Raises
    ------
    SlideError
        If it is no image, damaged, or not 8-bit grey or RGB.
    ScaleError
        If its metadata say that pixels are not square.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
        found = attributes.get("multiscales") or attributes.get("ome", {}).get("multiscales")
        if not found:
            msg = f"{path} is a zarr group and no image (it has no 'multiscales'): give the group of one image in it"
            raise SlideError(msg)
        axes = [one if isinstance(one, dict) else {"name": one} for one in found[0]["axes"]]
        names = "".join(str(one["name"]) for one in axes)
        datasets = found[0]["datasets"]
        levels = [group[str(one["path"])] for one in datasets]
        scales = [_scale_of(one, len(names)) for one in datasets]
    except SlideError:
        raise
    except _DAMAGE as error:
        msg = f"{path} cannot be read as OME-Zarr ({error}): it is damaged or of another kind"
        raise SlideError(msg) from error
    _check(path, names, levels)
    x, y = names.index("x"), names.index("y")
    width = levels[0].shape[x]
    downsamples = tuple(
        one[x] / scales[0][x] if one is not None and scales[0] is not None else width / array.shape[x]
        for one, array in zip(scales, levels, strict=True)
    )
    mpp = None
    if scales[0] is not None and str(axes[x].get("unit", "")).lower() in MICROMETRES:
        mpp = scales[0][x]
        if abs(scales[0][y] - mpp) > 0.01 * mpp:
            msg = f"image {path}: pixels are {mpp:g} x {scales[0][y]:g} um; wanted square ones"
            raise ScaleError(msg)
    return ZarrSlide(path, levels, axes=names, downsamples=downsamples, metadata_mpp=mpp)


def _scale_of(dataset: Any, axes: int) -> list[float] | None:
    """Size of a pixel along each axis, as one level of an image says."""
    for one in dataset.get("coordinateTransformations", ()):
        if one.get("type") == "scale" and len(one.get("scale", ())) == axes and min(map(float, one["scale"])) > 0:
            return [float(value) for value in one["scale"]]
    return None


def _check(path: Path, axes: str, levels: list[Any]) -> None:
    """Refuse what is no picture."""
    sizes = dict(zip(axes, levels[0].shape, strict=False))
    stacked = [axis for axis in axes if axis not in "cyx" and sizes.get(axis) != 1]
    if not {"y", "x"} <= set(axes) or stacked or levels[0].dtype != np.uint8 or sizes.get("c", 1) not in (1, 3, 4):
        msg = (
            f"image {path} holds {levels[0].dtype} of shape {levels[0].shape} along {axes}; wanted 8-bit grey or RGB, "
            "one plane: convert it, or give the H&E image"
        )
        raise SlideError(msg)
