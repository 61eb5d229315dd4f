"""Neighbours by ring around a spot, spread over all directions, so that spots and dense grids agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from .nearest import TIE_UM, blocks, checked_centers, checked_count, most_within, nearest_of, rows_by_slide, tree_of
from .neighbourhood import Neighbourhood

ON_A_BORDER = 1e-9
"""Slack in sectors, so that a spot on the border of two falls in the same one whatever the rounding of um/px."""


def rings(center_um: Floats, edges_um: Sequence[float], per_ring: int, *, slide: Ints | None = None) -> Neighbourhood:
    """Up to `per_ring` neighbours in each ring around every row.

    A ring holds the spots farther than its inner edge and no farther than its outer one. Where it has more than
    `per_ring`, they are chosen over all directions: the ring is cut into `per_ring` equal sectors, the first one in the
    middle of +x and the others following towards +y; each sector gives its nearest spot, then each its second nearest,
    and so on, until there are enough. Within such a turn nearer spots come first, ties by row.

    Parameters
    ----------
    center_um
        (n, 2) positions.
    edges_um
        Edges of the rings, growing: (0, 300, 600) are two rings.
    per_ring
        Most neighbours in a ring.
    slide
        (n,) slide of each row; rows of other slides are never neighbours. One slide where not given.

    Returns
    -------
    Neighbourhood
        (n, n_rings * per_ring): the innermost ring first, each nearest first, ties by row, masked at its end. A row
        itself, and spots at its very place, are in no ring: they have no direction.

    Raises
    ------
    StoreError
        If the edges do not grow from zero or more, `per_ring` is not positive, a position is not finite, or `slide` has
        another length.
    """
    edges, per_ring = _checked_edges(edges_um), checked_count("per_ring", per_ring)
    center_um = checked_centers(center_um)
    shape = (len(center_um), (len(edges) - 1) * per_ring)
    index, mask = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.bool_)
    distance = np.full(shape, np.inf, dtype=np.float32)
    for rows in rows_by_slide(slide, len(center_um)):
        here = center_um[rows]
        tree = tree_of(here)
        most = most_within(tree, np.arange(len(rows)), edges[-1])
        for block in blocks(len(rows), most):
            found, away = nearest_of(tree, block, most, radius_um=edges[-1])
            ring = np.searchsorted(edges + TIE_UM, away) - 1  # -1 inside all rings, n_rings outside
            sector = _sectors(here[np.minimum(found, len(rows) - 1)] - here[block][:, None], per_ring)
            chosen = [_spread(np.where(ring == one, sector, -1), per_ring) for one in range(len(edges) - 1)]
            columns = np.concatenate(chosen, axis=1)  # (m, n_rings * per_ring) of `found`
            taken = columns < most
            columns[~taken] = 0  # the row itself
            near = rows[np.take_along_axis(found, columns, axis=1)]
            some = Neighbourhood.where(taken, near, np.take_along_axis(away, columns, axis=1))
            index[rows[block]], mask[rows[block]], distance[rows[block]] = some.index, some.mask, some.distance
    return Neighbourhood(index, mask, distance)


def _sectors(offset_um: Floats, n_sectors: int) -> Ints:
    """Sector of each offset (..., 2), x and y."""
    turn = np.arctan2(offset_um[..., 1], offset_um[..., 0]) / (2 * np.pi)
    return np.floor(turn * n_sectors + 0.5 + ON_A_BORDER).astype(np.int64) % n_sectors


def _spread(sector: Ints, per_ring: int) -> Ints:
    """Columns chosen from each row of `sector` (m, c), sorted, (m, per_ring); c or more where there are no others.

    Columns run from near to far; -1 is outside the ring.
    """
    sector = np.pad(sector, ((0, 0), (0, max(per_ring - sector.shape[1], 0))), constant_values=-1)
    columns = sector.shape[1]
    turn = np.zeros(sector.shape, dtype=np.int64)  # how many of the same sector there are, up to this one
    for one in range(per_ring):
        inside = sector == one
        turn += inside * np.cumsum(inside, axis=1)
    none = (columns + 1) * columns
    key = np.where(sector >= 0, turn * columns + np.arange(columns), none)
    chosen = np.partition(key, per_ring - 1, axis=1)[:, :per_ring]
    return np.sort(np.where(chosen < none, chosen % columns, columns), axis=1)


def _checked_edges(edges_um: Sequence[float]) -> NDArray[np.float64]:
    edges = np.asarray(edges_um, dtype=np.float64)
    whole = edges.ndim == 1 and len(edges) > 1 and bool(np.isfinite(edges).all())
    if not whole or edges[0] < 0 or (np.diff(edges) <= 0).any():
        msg = f"rings with edges {edges.tolist()} um: give two or more that grow from zero or above, as (0, 300, 600)"
        raise StoreError(msg)
    return edges
