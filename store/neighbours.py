"""Neighbourhoods in tissue: indices, never copied vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats, Ints
from .errors import StoreError

TIE_UM = 1e-6
"""Distances closer than this are equal; the lower row comes first."""


@dataclass(frozen=True)
class Neighbourhood:
    """Neighbours of n rows.

    Attributes
    ----------
    index
        int32 (n, k), rows; 0 where masked.
    mask
        bool (n, k), True where there is a neighbour.
    distance
        float32 (n, k), um in tissue, the index's metric in feature space; infinity where masked.
    """

    index: NDArray[np.int32]
    mask: Bools
    distance: NDArray[np.float32]


def nearest_in_tissue(
    center_um: Floats, k: int, *, slide: Ints | None = None, radius_um: float = np.inf, self_included: bool = False
) -> Neighbourhood:
    """The k nearest spots on the same slide, nearest first, ties by row.

    Parameters
    ----------
    center_um
        (n, 2) positions.
    slide
        (n,) slide of each row; rows of other slides are never neighbours. One slide where not given.
    radius_um
        Neighbours farther away are masked.
    self_included
        Whether a row is its own first neighbour.

    Raises
    ------
    StoreError
        If k is not positive.
    """
    if k < 1:
        msg = f"k = {k}: ask for at least one neighbour"
        raise StoreError(msg)
    n = len(center_um)
    slide = np.zeros(n, dtype=np.int64) if slide is None else np.asarray(slide)
    index = np.zeros((n, k), dtype=np.int32)
    distance = np.full((n, k), np.inf, dtype=np.float32)
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        found, away = _nearest_on_slide(np.asarray(center_um)[rows], k, self_included=self_included)
        width = found.shape[1]
        index[rows, :width] = rows[found]
        distance[rows, :width] = away
    mask = np.isfinite(distance) & (distance <= radius_um)
    index[~mask], distance[~mask] = 0, np.inf
    return Neighbourhood(index, mask, distance)


def _nearest_on_slide(center_um: Floats, k: int, *, self_included: bool) -> tuple[Ints, Floats]:
    """Rows and distances (n, min(k, others)) on one slide."""
    from scipy.spatial import cKDTree

    n = len(center_um)
    width = min(k, n if self_included else n - 1)
    if width < 1:
        return np.zeros((n, 0), dtype=np.int64), np.zeros((n, 0))
    tree = cKDTree(center_um)
    # The k-th distance is sure; which of the spots at that distance come along is not. So take every spot
    # within it and order them by (distance, row) here.
    reach, _ = tree.query(center_um, k=[min(k + 1, n)])  # (n, 1), one more for the spot itself
    within = tree.query_ball_point(center_um, reach[:, 0] + TIE_UM)
    found = np.empty((n, width), dtype=np.int64)
    away = np.empty((n, width))
    for row, near in enumerate(within):
        others = np.array([other for other in near if self_included or other != row])
        d = np.hypot(*(center_um[others] - center_um[row]).T)
        if self_included:
            d[others == row] = -1.0  # first, even where another spot lies at the same place
        order = np.lexsort((others, np.round(d / TIE_UM)))[:width]
        found[row], away[row] = others[order], np.maximum(d[order], 0.0)
    return found, away
