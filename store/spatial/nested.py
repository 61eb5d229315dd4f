"""Parents and children: the tile of a coarser grid around a patch, and the patches in a tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import Floats, Ints
from ..errors import StoreError
from ..files.patches import Patches
from .nearest import TIE_UM, checked_centers
from .neighbourhood import Neighbourhood


def parents(levels: Sequence[Ints], *, center_um: Floats, coarse_center_um: Floats) -> Neighbourhood:
    """The tile of a coarser grid that contains each patch, through one or several nested grids.

    Parameters
    ----------
    levels
        From fine to coarse, of each grid its (n_level,) parents in the next one, -1 where that has no such tile.
    center_um
        (n, 2) centres of the patches.
    coarse_center_um
        (n_coarse, 2) centres of the last grid, for the distances.

    Returns
    -------
    Neighbourhood
        (n, 1), distances from centre to centre; masked where the tile, or one on the way to it, was not kept.

    Raises
    ------
    StoreError
        If there is not one parent a patch, or one is no row of the next grid.
    """
    center_um, coarse_center_um = checked_centers(center_um), checked_centers(coarse_center_um, "tile")
    if not levels or len(levels[0]) != len(center_um):
        msg = f"parents of {[len(level) for level in levels]} patches for {len(center_um)}: give one a patch"
        raise StoreError(msg)
    found = np.arange(len(center_um))
    for level, size in zip(levels, [*map(len, levels[1:]), len(coarse_center_um)], strict=True):
        parent = np.append(np.asarray(level, dtype=np.int64), -1)  # the last one is the parent of -1
        if parent.min() < -1 or parent.max() >= size:
            msg = f"parents from {parent.min()} to {parent.max()} in a grid of {size} tiles: give rows of it, or -1"
            raise StoreError(msg)
        found = parent[found]
    return _to_one(found, center_um, coarse_center_um)


def containing(center_um: Floats, tile_center_um: Floats, side_um: float) -> Neighbourhood:
    """The tile whose square contains each spot, for patch sets that do not record their parents.

    Parameters
    ----------
    center_um
        (n, 2) spots.
    tile_center_um
        (n_tiles, 2) centres of the tiles.
    side_um
        Side of a tile. Its left and upper edges are part of it, its right and lower ones are the next tile's.

    Returns
    -------
    Neighbourhood
        (n, 1), distances from centre to centre; masked where no tile contains the spot. Of overlapping tiles the one
        with the nearest centre, ties by row.

    Raises
    ------
    StoreError
        If `side_um` is not positive, or a position is not finite.
    """
    from scipy.spatial import cKDTree

    if not 0 < side_um < np.inf:
        msg = f"side_um = {side_um}: give the side of a tile in um"
        raise StoreError(msg)
    center_um, tile_center_um = checked_centers(center_um), checked_centers(tile_center_um, "tile")
    if not len(tile_center_um) or not len(center_um):
        return _to_one(np.full(len(center_um), -1), center_um, tile_center_um)
    tree, reach, n_tiles = cKDTree(tile_center_um), side_um / 2 + 2 * TIE_UM, len(tile_center_um)
    most = int(tree.query_ball_point(center_um, reach, p=np.inf, return_length=True).max())
    _, near = tree.query(center_um, k=max(most, 1), p=np.inf, distance_upper_bound=reach)
    near = near.reshape(len(center_um), -1)  # (n, most), n_tiles where there are no more
    step = center_um[:, None] - tile_center_um[np.minimum(near, n_tiles - 1)]
    inside = ((-side_um / 2 - TIE_UM <= step) & (step < side_um / 2 - TIE_UM)).all(axis=2) & (near < n_tiles)
    away = np.where(inside, np.hypot(step[..., 0], step[..., 1]), np.inf)
    nearest = inside & (away <= away.min(axis=1, keepdims=True) + TIE_UM)
    found = np.where(nearest, near, n_tiles).min(axis=1)
    return _to_one(np.where(found < n_tiles, found, -1), center_um, tile_center_um)


def children(parent: Neighbourhood, n_parents: int) -> Neighbourhood:
    """The patches of each tile: `parents` or `containing` turned round.

    Parameters
    ----------
    parent
        (n, 1) the tile of each patch.
    n_parents
        Tiles of the coarser grid.

    Returns
    -------
    Neighbourhood
        (n_parents, k) patches by row, distances from centre to centre; k is the largest number of children of a tile,
        and 1 where none has any.

    Raises
    ------
    StoreError
        If patches have several tiles, or one that is no row of the grid.
    """
    if parent.k != 1 or parent.index.max(initial=0) >= max(n_parents, 1):
        msg = f"{parent.k} tile(s) a patch, up to row {parent.index.max(initial=0)}: wanted one of {n_parents} tiles"
        raise StoreError(msg)
    rows = np.flatnonzero(parent.mask[:, 0])
    tile = parent.index[rows, 0].astype(np.int64)
    order = np.argsort(tile, kind="stable")
    rows, tile = rows[order], tile[order]
    counts = np.bincount(tile, minlength=n_parents)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (n_parents, max(1, int(counts.max(initial=0))))
    index, distance = np.full(shape, -1, dtype=np.int64), np.full(shape, np.inf)
    index[tile, place], distance[tile, place] = rows, parent.distance[rows, 0]
    return Neighbourhood.where(index >= 0, index, distance)


def parents_between(
    read: Callable[[str], Patches], fine: str, coarse: str, *, mpp: float, side_um: float | None = None
) -> Neighbourhood:
    """The tile of patch set `coarse` for each patch of `fine`, as recorded, or by place where a side is given.

    Parameters
    ----------
    read
        Gives a patch set of the slide by its name.
    mpp
        um per level-0 pixel.
    side_um
        Side of the tiles of `coarse`. Where not given, the recorded parents are followed from grid to grid.

    Raises
    ------
    StoreError
        If the recorded parents do not lead from one to the other.
    """
    first, last = read(fine), read(coarse)
    if side_um is not None:
        return containing(first.center_px * mpp, last.center_px * mpp, side_um)
    levels, passed, here = [], [fine], first
    while passed[-1] != coarse:
        if here.parent is None or here.parent_set is None or here.parent_set in passed:
            msg = (
                f"patch set {fine} does not nest in {coarse}: its parents lead through {' > '.join(passed)} and no "
                "further. Give side_um, the side of the coarser tiles, to go by place."
            )
            raise StoreError(msg)
        levels.append(here.parent)
        passed.append(here.parent_set)
        here = read(here.parent_set)
    return parents(levels, center_um=first.center_px * mpp, coarse_center_um=last.center_px * mpp)


def _to_one(found: Ints, center_um: Floats, tile_center_um: Floats) -> Neighbourhood:
    """Tile of each row, -1 for none, as a neighbourhood (n, 1)."""
    distance = np.full(len(found), np.inf)
    some = found >= 0
    step = center_um[some] - tile_center_um[found[some]]
    distance[some] = np.hypot(step[:, 0], step[:, 1])
    return Neighbourhood.where(some[:, None], found[:, None], distance[:, None])
