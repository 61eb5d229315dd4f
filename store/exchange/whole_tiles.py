"""STAMP's tiles are whole level-0 pixels, its coordinates um that fall short of them: the pixels from the um."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import isclose

import numpy as np

from ..arrays import Floats, Ints
from ..errors import ScaleError
from ..slide_file import SAME_MPP
from .foreign import Declared, Foreign
from .lattice import lattice_step

LARGEST_SUPERTILE_PX = 16384
"""Largest square that STAMP is believed to read at once."""

SUPERTILE_PX = 4096
"""The square that it reads unless told otherwise; tiles that drift on beyond it speak against the scale."""

_SLACK_UM, _SLACK_SHARE = 0.002, 2e-6  # of float32 coordinates, and of an um/px with seven digits


@dataclass(frozen=True)
class WholeTiles:
    """Tiles of a slide as STAMP cut them.

    Attributes
    ----------
    index
        (n, 2) column and row of each tile, counted from the slide's upper left.
    side_px
        Side of a tile in level-0 pixels.
    per_supertile
        Tiles along the square that was read at once.
    told
        Whether coordinates bear the scale out, and do not only leave it possible.
    """

    index: Ints
    side_px: int
    per_supertile: int
    told: bool = True

    def coords_um(self, *, tile_um: float, mpp: float) -> Floats:
        """Corners (n, 2) in um, exactly as STAMP writes them."""
        inner = self.index % self.per_supertile
        return (self.index - inner) * self.side_px * mpp + inner * tile_um


def whole_tiles(corners_um: Floats, *, tile_um: float, mpp: float) -> WholeTiles | None:
    """Find the tiles at corners (n, 2) in um; None where STAMP would not have cut such tiles at this scale.

    A tile is `ceil(tile_um / mpp)` pixels. STAMP reads squares of m x m tiles: their corner is written as pixels times
    um/px, tile j of the square as `j * tile_um` more, so that it falls short of its pixels by j times what rounding up
    added (`tiling.py`, `_supertiles` and `_tiles`). That shortfall gives a wrong scale away.
    """
    side_px = math.ceil(tile_um / mpp)
    side_um = side_px * mpp
    added_um = side_um - tile_um
    slack = _SLACK_UM + _SLACK_SHARE * np.abs(corners_um)
    index = np.rint(corners_um / side_um)
    short = index * side_um - corners_um
    most = max(1, LARGEST_SUPERTILE_PX // side_px)
    if added_um <= 2 * slack.max():  # too little to count with: all of the largest square at once
        fits = (short >= -slack).all() and (short <= (most - 1) * added_um + slack).all()
        return _as_written(index.astype(np.int64), side_px, corners_um, tile_um=tile_um, mpp=mpp) if fits else None
    inner = np.rint(short / added_um)
    if (inner < 0).any() or (np.abs(short - inner * added_um) > slack).any():
        return None
    starts = (index - inner).astype(np.int64)
    least = int(inner.max(initial=0.0)) + 1
    fitting = [m for m in range(least, most + 1) if not (starts % m).any()]
    if not fitting:
        return None
    told = bool(index.any()) and fitting[0] <= max(1, int(SUPERTILE_PX * mpp // tile_um))
    return WholeTiles(index.astype(np.int64), side_px, fitting[0], told)


def _as_written(index: Ints, side_px: int, corners_um: Floats, *, tile_um: float, mpp: float) -> WholeTiles:
    """Tiles whose shortfall is below what float32 tells: in squares that give these very numbers, if any do."""
    written = corners_um.astype(np.float32)
    for per_supertile in range(1, max(1, LARGEST_SUPERTILE_PX // side_px) + 1):
        tiles = WholeTiles(index, side_px, per_supertile, told=False)
        if np.array_equal(tiles.coords_um(tile_um=tile_um, mpp=mpp).astype(np.float32), written):
            return tiles
    return WholeTiles(index, side_px, 1, told=False)


def on_whole_pixels(foreign: Foreign, declared: Declared, *, mpp: float) -> Foreign:
    """The same patches with corners and side in level-0 pixels.

    Raises
    ------
    ScaleError
        If the tiles are not of this scale, or another side is declared than they have.
    """
    if foreign.cut != "whole" or foreign.top_left is None or foreign.side is None:
        return foreign
    tiles = whole_tiles(foreign.top_left, tile_um=foreign.side, mpp=mpp)
    if tiles is not None:
        corners = (tiles.index * tiles.side_px).astype(np.float64)
        doubt = (
            f"its coordinates do not tell whether {foreign.tool} read {mpp:g} um/px: they fit it, and others as well"
        )
        return replace(
            foreign,
            top_left=corners,
            unit="px",
            side=float(tiles.side_px),
            details={**foreign.details, "tiles_per_supertile": tiles.per_supertile},
            notes=foreign.notes if tiles.told else (*foreign.notes, doubt),
        )
    nominal, said = math.ceil(foreign.side / mpp), declared.patch_px
    if said is None or isclose(said, nominal, rel_tol=SAME_MPP):
        step = lattice_step(foreign.top_left)
        stepping = "lie on no such lattice" if step is None else f"step by {step:g} um"
        msg = (
            f"slide {foreign.slide_id}: {mpp:g} um/px is not what {foreign.tool} read: a tile of {foreign.side:g} um "
            f"would be {nominal} px there and step by {nominal * mpp:g} um, its coordinates {stepping}. Give the um/px "
            "that it read, all digits, with --mpp X or the images with --slides DIR; or declare the real side of a "
            "tile in level-0 pixels with --patch-px N, and corners are taken as um over um/px."
        )
        raise ScaleError(msg)
    note = f"corners were taken as um over {mpp:g} um/px; {foreign.tool} itself cut at other whole pixels"
    return replace(
        foreign, top_left=foreign.top_left / mpp, unit="px", side=said, view=None, notes=(*foreign.notes, note)
    )
