"""Slides kept as OME-Zarr, as the images of SpatialData are: one array a level, read chunk by chunk.

OME-NGFF 0.4 (zarr 2, `multiscales` in the group's attributes) and 0.5 (zarr 3, below `ome`).
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...store.arrays import Pixels
from ...store.errors import SlideError, TissuaryError
from .image import as_rgb
from .metadata import square_mpp, um_per_unit
from .slide import check_region, tile_box

LARGEST_TILE_PX = 1024
"""Chunks beyond this are cut into tiles of it; some writers make one chunk of a whole image."""

SAME_FACTOR = 0.05
"""Largest relative difference between the ratio of two levels' scales and that of their sizes: sides are rounded."""

_RGB = ["FF0000", "00FF00", "0000FF"]
_FIRST_AXES = "tczyx"
"""Axes of OME-NGFF 0.1 and 0.2, which do not say them."""

_LAYOUT = "bioformats2raw.layout"
"""Attribute of a group whose images are its groups "0", "1", ... (OME-NGFF 0.4)."""

log = logging.getLogger(__name__)

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


def is_image_group(path: Path) -> bool:
    """Whether a path is the folder of an OME-Zarr image, or of images in bioformats2raw's layout."""
    for name in ("zarr.json", ".zattrs"):
        try:
            said = json.loads((path / name).read_bytes())
            attributes = said.get("attributes", {}) if name == "zarr.json" else said
            keys = {*attributes, *attributes.get("ome", ())}
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        if keys & {"multiscales", _LAYOUT}:
            return True
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
        group = _image_group(zarr.open_group(path, mode="r"), path)
        attributes = _attributes(group)
        image = attributes["multiscales"][0]
        if len(attributes["multiscales"]) > 1:
            log.warning("image %s holds %d multiscales: the first is read", path, len(attributes["multiscales"]))
        axes = [one if isinstance(one, dict) else {"name": one} for one in image.get("axes", _FIRST_AXES)]
        names = "".join(str(one["name"]) for one in axes)
        levels = [group[str(one["path"])] for one in image["datasets"]]
        scales = _scales(image, len(names))
        x, y = names.find("x"), names.find("y")
        _check(path, names, levels, attributes.get("omero", {}).get("channels", []))
        order = sorted(range(len(levels)), key=lambda level: -levels[level].shape[x])
        levels, scales = [levels[i] for i in order], [scales[i] for i in order]
        downsamples = tuple(_downsample(levels, scales, level, x) for level in range(len(levels)))
        mpp = None
        if scales[0] is not None:
            um = [um_per_unit(str(axes[i].get("unit", ""))) for i in (x, y)]
            sides = [None if one is None else scales[0][i] * one for i, one in zip((x, y), um, strict=True)]
            mpp = square_mpp(sides[0], sides[1], path)
    except TissuaryError:
        raise
    except _DAMAGE as error:
        msg = f"{path} cannot be read as OME-Zarr ({error}): it is damaged or of another kind"
        raise SlideError(msg) from error
    return ZarrSlide(path, levels, axes=names, downsamples=downsamples, metadata_mpp=mpp)


def _attributes(group: Any) -> dict[str, Any]:
    """Attributes of a group as OME-NGFF has them: 0.4 and before at the top, 0.5 below `ome`."""
    attributes = dict(group.attrs)
    return attributes if attributes.get("multiscales") else dict(attributes.get("ome", {}))


def _image_group(group: Any, path: Path) -> Any:
    """The group of the image; of bioformats2raw's layout, which may hold several, the largest."""
    if _attributes(group).get("multiscales"):
        return group
    if _LAYOUT in group.attrs or _LAYOUT in _attributes(group):
        images = {name: one for name, one in group.groups() if _attributes(one).get("multiscales")}
        sizes = {name: _first_shape(one) for name, one in sorted(images.items())}
        if sizes:
            largest = max(sizes, key=lambda name: math.prod(sizes[name]))
            rest = [name for name in sizes if name != largest]
            if rest:
                log.warning(
                    "image %s holds %d images: read is %s, the largest; left out: %s. Give the group of another to "
                    "read that", path, len(sizes), largest, ", ".join(f"{one} of {sizes[one]}" for one in rest),
                )  # fmt: skip
            return images[largest]
    msg = f"{path} is a zarr group and no image (it has no 'multiscales'): give the group of one image in it"
    raise SlideError(msg)


def _first_shape(group: Any) -> tuple[int, ...]:
    return tuple(group[str(_attributes(group)["multiscales"][0]["datasets"][0]["path"])].shape)


def _scales(image: dict[str, Any], axes: int) -> list[list[float] | None]:
    """Size of a pixel along each axis for each level: its own scale, then the one of all levels (OME-NGFF 0.4, 3.4)."""
    of_all = _scale_of(image, axes)
    own = [_scale_of(one, axes) for one in image["datasets"]]
    if of_all is None:
        return own
    return [None if one is None else [a * b for a, b in zip(one, of_all, strict=True)] for one in own]


def _downsample(levels: list[Any], scales: list[list[float] | None], level: int, x: int) -> float:
    """How many level-0 pixels a pixel spans; by the levels' sizes where their scales are missing or cannot be meant."""
    by_size = float(levels[0].shape[x] / levels[level].shape[x])
    own, first = scales[level], scales[0]
    if own is None or first is None:
        return by_size
    by_scale = own[x] / first[x]
    slack = SAME_FACTOR + 1 / levels[level].shape[x]
    return by_scale if abs(by_scale / by_size - 1) <= slack else by_size


def _scale_of(described: Any, axes: int) -> list[float] | None:
    """Scale along each axis that an image, or one level of it, says; several apply one after another.

    SpatialData lists a transformation into each of its coordinate systems there, which are no part of the scale.
    """
    found = None
    for one in described.get("coordinateTransformations") or ():
        if isinstance(one.get("output"), dict) or one.get("type") != "scale":
            continue
        scale = [float(value) for value in one.get("scale", ())]
        if len(scale) != axes or min(scale) <= 0:
            return None
        found = scale if found is None else [a * b for a, b in zip(found, scale, strict=True)]
    return found


def _check(path: Path, axes: str, levels: list[Any], channels: list[Any]) -> None:
    """Refuse what is no picture, or one of stains that are no red, green and blue."""
    sizes = dict(zip(axes, levels[0].shape, strict=False))
    stacked = [axis for axis in axes if axis not in "cyx" and sizes.get(axis) != 1]
    if not {"y", "x"} <= set(axes) or stacked or levels[0].dtype != np.uint8 or sizes.get("c", 1) not in (1, 3, 4):
        msg = (
            f"image {path} holds {levels[0].dtype} of shape {levels[0].shape} along {axes}; wanted 8-bit grey or RGB, "
            "one plane: convert it, or give the H&E image"
        )
        raise SlideError(msg)
    colours = [str(one.get("color", "")).upper()[:6] for one in channels if isinstance(one, dict)]
    if sizes.get("c", 1) > 1 and len(set(colours)) > 1 and colours[:3] != _RGB:
        named = ", ".join(f"{one.get('label', '')} {one.get('color', '')}".strip() for one in channels)
        msg = f"image {path} shows its channels as {named}; wanted red, green and blue: give the H&E image"
        raise SlideError(msg)
