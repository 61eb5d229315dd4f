"""Neighbourhoods in tissue: indices, never copied vectors. The nearest rows, and all rows within a radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Bools, Floats, Ints
from ..errors import StoreError
from .nearest import TIE_UM, checked_centers, checked_count, most_within, nearest_of, rows_by_slide, tree_of


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

    @property
    def k(self) -> int:
        """Places for neighbours that each row has."""
        return int(self.index.shape[1])

    @classmethod
    def where(cls, mask: Bools, index: Ints, distance: Floats) -> Neighbourhood:
        """Neighbours where a mask (n, k) is True, whatever `index` and `distance` hold elsewhere."""
        return cls(
            np.where(mask, index, 0).astype(np.int32),
            np.asarray(mask, dtype=np.bool_),
            np.where(mask, distance, np.inf).astype(np.float32),
        )


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

    Returns
    -------
    Neighbourhood
        (n, k).

    Raises
    ------
    StoreError
        If k is not positive, a position is not finite, `radius_um` is not positive, or `slide` has another length.
    """
    k, radius_um = checked_count("k", k), _checked_radius(radius_um)
    center_um = checked_centers(center_um)
    own = 0 if self_included else 1
    index = np.zeros((len(center_um), k), dtype=np.int32)
    distance = np.full((len(center_um), k), np.inf, dtype=np.float32)
    mask = np.zeros((len(center_um), k), dtype=np.bool_)
    for rows in rows_by_slide(slide, len(center_um)):
        wanted = min(k + own, len(rows))
        found, away = nearest_of(tree_of(center_um[rows]), np.arange(len(rows)), wanted, radius_um=radius_um)
        near = away[:, own:] <= radius_um + TIE_UM if np.isfinite(radius_um) else np.isfinite(away[:, own:])
        here = Neighbourhood.where(near, rows[np.where(near, found[:, own:], 0)], away[:, own:])
        index[rows, : here.k], mask[rows, : here.k], distance[rows, : here.k] = here.index, here.mask, here.distance
    return Neighbourhood(index, mask, distance)


def within_radius(
    center_um: Floats,
    radius_um: float,
    *,
    slide: Ints | None = None,
    k_max: int | None = None,
    self_included: bool = False,
) -> Neighbourhood:
    """All spots of the same slide within a radius, nearest first, ties by row.

    Parameters
    ----------
    center_um
        (n, 2) positions.
    radius_um
        Farthest distance of a neighbour, itself within.
    slide
        (n,) slide of each row; rows of other slides are never neighbours. One slide where not given.
    k_max
        Most neighbours of a row; the nearest are kept.
    self_included
        Whether a row is its own first neighbour.

    Returns
    -------
    Neighbourhood
        (n, k), k being the largest number of neighbours that a row has, and 1 where none has any.

    Raises
    ------
    StoreError
        If `radius_um` is not a positive number, `k_max` is not positive, a position is not finite, or `slide` has
        another length.
    """
    k_max = None if k_max is None else checked_count("k_max", k_max)
    center_um = checked_centers(center_um)
    if not np.isfinite(_checked_radius(radius_um)):
        msg = "an endless radius holds every row: give one in um, or ask for the k nearest"
        raise StoreError(msg)
    groups = rows_by_slide(slide, len(center_um))
    most = max((most_within(tree_of(center_um[rows]), np.arange(len(rows)), radius_um) for rows in groups), default=0)
    most = most if self_included else most - 1
    k = max(1, most if k_max is None else min(most, k_max))
    found = nearest_in_tissue(center_um, k, slide=slide, radius_um=radius_um, self_included=self_included)
    width = max(1, int(np.max(found.mask.sum(axis=1), initial=0)))  # the count above looks a little over the rim
    return Neighbourhood(found.index[:, :width], found.mask[:, :width], found.distance[:, :width])


def _checked_radius(radius_um: float) -> float:
    if not radius_um > 0:
        msg = f"radius_um = {radius_um}: give a positive distance in um"
        raise StoreError(msg)
    return float(radius_um)
