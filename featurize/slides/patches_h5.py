"""Patches that another tool cut already, as HEST-1k ships them: an image of which only they are left.

Read at HEST afd42c3 with hestcore 1.0.6: `img` uint8 (n, side, side, 3), `coords` int64 (n, 2) upper left corners in
level-0 px, which may be negative at a border, `barcode` (n, 1); the scale in attributes on `img`, `coords` or both.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...store.arrays import Floats, Ints, Pixels, Strings
from ...store.errors import SlideError, StoreError
from ...store.exchange.hdf import array_of, names_of, number, open_foreign, points_of
from ..sources.sample import Spots
from .slide import check_region, tile_box

OVERVIEW_PX = 1024
"""Longer side of the picture that the patches are put together to."""

TILE_PX = 512


class PrecutSlide:
    """What is left of a slide where only its patches are there.

    Features are made from the patches as they are, see `PrecutStream`. As a slide it is a picture for people: the
    patches in their places, on white.

    Attributes
    ----------
    corner_px
        (n, 2) int64 upper left corners, level-0 pixels.
    barcode
        (n,) names.
    side_src_px, side_px
        Side of a patch in level-0 pixels, and in its own.
    metadata_mpp
        um per level-0 pixel as the file says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._levels: dict[int, Pixels] = {}
        with ExitStack() as stack:
            file = stack.enter_context(open_foreign(path))
            self._img = _pixels_of(file, path)
            self.barcode, self.corner_px = read_places(file, path)
            self.side_px = int(self._img.shape[1])
            self.side_src_px = _whole_side(file, path)
            self.metadata_mpp = _number(file, "pixel_size")
            self._resources = stack.pop_all()
        if len(self._img) != len(self.barcode):
            self.close()
            msg = f"{path} holds {len(self._img)} patches and {len(self.barcode)} names: get it again"
            raise StoreError(msg)
        self._row = {name: row for row, name in enumerate(self.barcode.tolist())}
        last = self.corner_px.max(axis=0) + self.side_src_px
        self.width, self.height = (max(1, int(v)) for v in last)
        factor = max(self.width, self.height) / OVERVIEW_PX
        self.level_downsamples = (1.0,) if factor <= 1 else (1.0, factor)
        self.level_dimensions = tuple(
            (max(1, round(self.width / d)), max(1, round(self.height / d))) for d in self.level_downsamples
        )
        self.tile_px = ((TILE_PX, TILE_PX),) * len(self.level_dimensions)
        self.reader = "pre-cut patches"
        self.bounds_px: tuple[int, int, int, int] | None = None

    @property
    def spots(self) -> Spots:
        """Where the patches lie."""
        return Spots(self.barcode, self.center_px, None)

    @property
    def center_px(self) -> Floats:
        """(n, 2) float64 centres, level-0 pixels, of what the patches show."""
        return self.corner_px + self.side_src_px / 2

    def rows_of(self, barcode: Strings) -> Ints:
        """Row of each name.

        Raises
        ------
        SlideError
            If one is not among the patches.
        """
        missing = [name for name in barcode.tolist() if name not in self._row]
        if missing:
            msg = f"{self._path} holds no patch of {len(missing)} of {len(barcode)} spots, the first is {missing[0]}"
            raise SlideError(msg)
        return np.array([self._row[name] for name in barcode.tolist()], dtype=np.int64)

    def patch(self, row: int) -> Pixels:
        """One patch (side, side, 3), its bytes as they are in the file.

        Raises
        ------
        SlideError
            If they cannot be read.
        """
        try:
            pixels: Pixels = self._img[row]
        except (OSError, RuntimeError, ValueError) as error:
            msg = f"{self._path}: patch {row} cannot be read ({error}): the file is damaged, get it again"
            raise SlideError(msg) from error
        return pixels

    def read(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
        """Region (height_px, width_px, 3) of the picture; see `Slide.read`."""
        check_region(self.level_dimensions, level, (x_px, y_px, width_px, height_px), self._path)
        if level > 0:  # the overview, which is small
            with self._lock:
                if level not in self._levels:
                    self._levels[level] = self._painted(level, (0, 0, *self.level_dimensions[level]))
            return self._levels[level][y_px : y_px + height_px, x_px : x_px + width_px].copy()
        return self._painted(level, (x_px, y_px, width_px, height_px))

    def fetch_tile(self, level: int, column: int, row: int) -> None:
        """Nothing, of a tile that exists; see `Slide.fetch_tile`."""
        tile_box(self, (level, column, row), self._path)

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """One tile of the picture; see `Slide.decode_tile`."""
        return self.read(level, *tile_box(self, (level, column, row), self._path))

    def _painted(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Patches in their places in a box (x, y, width, height) of a level; later ones lie above earlier ones."""
        from PIL import Image

        left, top, width, height = box
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        downsample = self.level_downsamples[level]
        start = np.rint(self.corner_px / downsample).astype(np.int64)  # (n, 2)
        stop = np.maximum(np.rint((self.corner_px + self.side_src_px) / downsample).astype(np.int64), start + 1)
        seen = ((stop > [left, top]) & (start < [left + width, top + height])).all(axis=1)
        for row in np.flatnonzero(seen).tolist():
            size = tuple((stop[row] - start[row]).tolist())
            patch = Image.fromarray(self.patch(row)).resize(size, Image.Resampling.BOX)
            canvas.paste(patch, tuple((start[row] - [left, top]).tolist()))
        return np.asarray(canvas)

    def close(self) -> None:
        """Let go of the file."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_precut(path: Path) -> PrecutSlide:
    """Open a file of patches that were cut already.

    Raises
    ------
    SlideError
        If it is damaged, of another kind, or does not say where its patches lie and how large they are.
    """
    try:
        return PrecutSlide(path)
    except StoreError as error:
        raise SlideError(str(error)) from error


def read_places(file: Any, path: Path) -> tuple[Strings, Ints]:
    """Names (n,) and corners (n, 2) of the patches in an open file.

    Raises
    ------
    StoreError
        If there are no coordinates, as in files of before August 2024, or no patches.
    """
    if "coords" not in file:
        msg = (
            f"{path} holds no 'coords': HEST wrote such files before August 2024, and they do not say where a patch "
            "lies; download it again"
        )
        raise StoreError(msg)
    corners = points_of(file)
    names = names_of(file, "barcodes" if "barcodes" in file else "barcode")
    if not len(corners) or len(corners) != len(names) or len(set(names.tolist())) != len(names):
        msg = f"{path} holds {len(corners)} coordinates and {len(set(names.tolist()))} names; wanted one name each"
        raise StoreError(msg)
    return names, corners.astype(np.int64)


def is_precut(path: Path) -> bool:
    """Whether an HDF5 file holds pixels of patches."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "img" in file
    except OSError:
        return False


def _pixels_of(file: Any, path: Path) -> Any:
    """The dataset of pixels, not read yet."""
    img = array_of(file, "img")
    if img.dtype != np.uint8 or img.ndim != 4 or img.shape[1] != img.shape[2] or img.shape[3] != 3 or not img.shape[1]:
        msg = f"{path}: 'img' holds {img.dtype} of shape {img.shape}; wanted uint8 (n, side, side, 3)"
        raise StoreError(msg)
    return img


def side_of(file: Any) -> float | None:
    """Side of a patch in level-0 pixels as an open file says, or None."""
    return _number(file, "patch_size_src")


def _whole_side(file: Any, path: Path) -> int:
    side = side_of(file)
    if side is None or side < 1 or side != int(side):
        msg = (
            f"{path} does not say how many level-0 pixels a patch spans (attribute patch_size_src on img or coords is "
            f"{side}), so its scale is not known: get a newer version of the file"
        )
        raise StoreError(msg)
    return int(side)


def _number(file: Any, name: str) -> float | None:
    """An attribute on `img`, where hestcore 1.0.4 has it, or on `coords`."""
    found = [number(array_of(file, one).attrs, name) for one in ("img", "coords") if one in file]
    return next((value for value in found if value is not None), None)
