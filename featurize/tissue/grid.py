"""Regular grids of tiles over the tissue of a slide, in um, and how a fine grid nests in a coarse one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import ScaleError
from ...store.naming import check_name

MIN_TISSUE = 0.5
"""Tissue fraction that a tile needs by default."""

WHOLE = 1e-6
"""Slack on whole numbers, so that a slide exactly k cells wide has k cells whatever the rounding of um/px."""


@dataclass(frozen=True)
class Grid:
    """Tiles of one slide that hold enough tissue, row by row.

    Attributes
    ----------
    center_px
        (n, 2) float64 centres in level-0 pixels, x then y.
    cells
        (n, 2) int32 row and column.
    tissue
        (n,) float32 fraction of the tile that is tissue, over its part on the slide.
    """

    center_px: Floats
    cells: Ints
    tissue: Floats

    def __len__(self) -> int:
        return len(self.cells)


def grid_centers(
    mask: Bools,
    *,
    size_px: tuple[int, int],
    mpp: float,
    tile_um: float,
    stride_um: float | None = None,
    min_tissue: float = MIN_TISSUE,
) -> Grid:
    """Tiles on a regular grid that hold enough tissue.

    The slide is divided into square cells of side `stride_um` from its top left corner; those that lie inside it exist,
    and each has its tile in its middle. An axis shorter than one cell has one, in its middle.

    Parameters
    ----------
    mask
        (h, w) tissue on a thumbnail of the whole slide.
    size_px
        Width and height of the slide, level 0.
    mpp
        um per level-0 pixel.
    tile_um
        Side of a tile; one wider than its cell overlaps the next ones.
    stride_um
        Distance of centres; `tile_um` where None.
    min_tissue
        Smallest tissue fraction of a tile that is kept, 0 to 1. The fraction is the exact area on the mask, fractions
        of its pixels included, over the part of the tile that lies on the slide: what lies beyond is mirrored from it
        when the tile is read.

    Raises
    ------
    ScaleError
        If a length is not positive, or `min_tissue` is not a fraction.

    References
    ----------
    Crow, F. C. (1984). Summed-area tables for texture mapping. SIGGRAPH 18(3), 207-212.
    """
    stride_um = tile_um if stride_um is None else stride_um
    _check({"mpp": mpp, "tile_um": tile_um, "stride_um": stride_um}, min_tissue)
    x, y = (_axis_px(side, stride_um / mpp) for side in size_px)
    top_left, bottom_right = (
        [np.clip(axis + half, 0, side) for axis, side in zip((x, y), size_px, strict=True)]
        for half in (-tile_um / mpp / 2, tile_um / mpp / 2)
    )
    fraction = _area_fraction(mask, top_left, bottom_right, size_px=size_px)
    kept = fraction >= min_tissue - WHOLE
    cells = np.argwhere(kept).astype(np.int32)  # (n, 2)
    center_px = np.stack([x[cells[:, 1]], y[cells[:, 0]]], axis=1)
    return Grid(center_px, cells, fraction[kept].astype(np.float32))


def nests(fine_stride_um: float, coarse_stride_um: float) -> int | None:
    """How many fine cells line the side of a coarse one; None where that is no whole number above 1."""
    ratio = coarse_stride_um / fine_stride_um
    factor = round(ratio)
    return factor if factor > 1 and abs(ratio - factor) < WHOLE * ratio else None


def nested_parents(fine: Grid, coarse: Grid, *, factor: int) -> Ints:
    """Row of the coarse cell that contains each fine cell.

    Parameters
    ----------
    factor
        Fine cells along the side of a coarse one, see `nests`.

    Returns
    -------
    Ints
        (n,) int32; -1 where the coarse cell was not kept.
    """
    row = {cell: i for i, cell in enumerate(map(tuple, coarse.cells.tolist()))}
    return np.array([row.get(cell, -1) for cell in map(tuple, (fine.cells // factor).tolist())], dtype=np.int32)


def grid_name(stride_um: float, *, tile_um: float, min_tissue: float) -> str:
    """Name of the patch set: `grid-112um`, with what differs from tile = stride and half tissue after it.

    Examples
    --------
    >>> grid_name(56.0, tile_um=112.0, min_tissue=0.1)
    'grid-56um-tile112um-tissue0.1'
    """
    tile = "" if tile_um == stride_um else f"-tile{_number(tile_um)}um"
    tissue = "" if min_tissue == MIN_TISSUE else f"-tissue{_number(min_tissue)}"
    return check_name(f"grid-{_number(stride_um)}um{tile}{tissue}", "patch set")


def _number(value: float) -> str:
    """Ten digits: enough to tell grids apart, and without the rounding noise of a difference of lengths."""
    return f"{value:.10g}"


def _axis_px(side_px: int, stride_px: float) -> Floats:
    """Centres of the cells along one side of the slide."""
    count = math.floor(side_px / stride_px * (1 + WHOLE))
    return (np.arange(count) + 0.5) * stride_px if count else np.array([side_px / 2])


def _area_fraction(
    mask: Bools, top_left: list[Floats], bottom_right: list[Floats], *, size_px: tuple[int, int]
) -> Floats:
    """Share of tissue in each box of a product grid, (rows, columns), from a summed-area table read between pixels."""
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    area = np.ones((1, 1))
    for axis, image_axis in ((0, 1), (1, 0)):  # x runs along the columns
        scale = mask.shape[image_axis] / size_px[axis]
        low, high = top_left[axis] * scale, bottom_right[axis] * scale
        sums = _between(sums, high, axis=image_axis) - _between(sums, low, axis=image_axis)
        area = area * np.expand_dims(high - low, 1 - image_axis)
    return np.asarray(np.clip(sums / area, 0, 1))


def _between(sums: Floats, at: Floats, *, axis: int) -> Floats:
    """Linear interpolation of a table along one axis."""
    low = np.minimum(at.astype(np.intp), sums.shape[axis] - 2)
    share = np.expand_dims(at - low, 1 - axis)
    return np.asarray(np.take(sums, low, axis) * (1 - share) + np.take(sums, low + 1, axis) * share)


def _check(lengths: dict[str, float], min_tissue: float) -> None:
    for name, value in lengths.items():
        if not 0 < value < math.inf:
            msg = f"{name}={value:g} makes no grid: give a positive number"
            raise ScaleError(msg)
    if not 0 <= min_tissue <= 1:
        msg = f"min_tissue={min_tissue:g} is no fraction: give a number from 0 to 1"
        raise ScaleError(msg)
