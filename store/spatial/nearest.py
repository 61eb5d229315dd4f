"""The nearest of many points in the plane, in an order that does not depend on how they were found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

TIE_UM = 1e-6
"""Distances that follow one another by no more than this are equal, and the lower row comes first.

The same slack holds for bounds: a spot at the very radius is within it, whatever the rounding of um/px makes of it.
"""

SPARE = 8
"""Points fetched beyond those wanted, so that what is tied with the last one mostly comes along at the first try."""

CELLS = 1 << 20
"""Candidates (rows x points) held at once: bounds memory, and stays near the processor's cache."""


def checked_centers(center_um: Floats, what: str = "row") -> Floats:
    """Positions as (n, 2) float64.

    Raises
    ------
    StoreError
        If their shape is another, or one is not finite.
    """
    center_um = np.asarray(center_um, dtype=np.float64)
    if center_um.ndim != 2 or center_um.shape[1] != 2:
        msg = f"positions of shape {center_um.shape}: wanted (n, 2), x and y in um"
        raise StoreError(msg)
    wrong = np.flatnonzero(~np.isfinite(center_um).all(axis=1))
    if len(wrong):
        msg = f"{what} {wrong[0]} lies at {center_um[wrong[0]].tolist()} um: leave out rows without a position"
        raise StoreError(msg)
    return center_um


def checked_count(name: str, value: object) -> int:
    """A whole number of neighbours, one at least.

    Raises
    ------
    StoreError
        If it is not.
    """
    if not isinstance(value, int | float | np.integer | np.floating) or value != value // 1:
        msg = f"{name} = {value!r}: ask for a whole number of neighbours"
        raise StoreError(msg)
    if value < 1:
        msg = f"{name} = {value}: ask for at least one neighbour"
        raise StoreError(msg)
    return int(value)


def rows_by_slide(slide: Ints | None, n: int) -> list[Ints]:
    """Rows of each slide that has any, ascending; all rows where slides are not given.

    Raises
    ------
    StoreError
        If there is not one slide number a row.
    """
    if slide is None:
        return [np.arange(n)] if n else []
    slide = np.asarray(slide)
    if slide.shape != (n,):
        msg = f"slide numbers of shape {slide.shape} for {n} rows: give one a row"
        raise StoreError(msg)
    order = np.argsort(slide, kind="stable")
    return [part for part in np.split(order, np.flatnonzero(np.diff(slide[order])) + 1) if len(part)]


def blocks(n: int, width: int) -> Iterator[Ints]:
    """Rows 0 to n - 1 in blocks that hold `CELLS` candidates, `width` a row."""
    step = max(1, CELLS // max(width, 1))
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n))


def tree_of(center_um: Floats) -> cKDTree:
    """Index points in the plane."""
    from scipy.spatial import cKDTree

    return cKDTree(center_um)


def most_within(tree: cKDTree, rows: Ints, radius_um: float) -> int:
    """Largest number of points within a radius of some rows of the tree, each row itself included."""
    # One tie further than the radius: whoever asks decides about the rim, and must not find its last place missing.
    counts = tree.query_ball_point(tree.data[rows], radius_um + 2 * TIE_UM, return_length=True)
    return int(np.max(counts, initial=0))


def nearest_of(tree: cKDTree, rows: Ints, wanted: int, *, radius_um: float = np.inf) -> tuple[Ints, Floats]:
    """The row itself, then the points nearest to it, ties by row.

    Parameters
    ----------
    rows
        (m,) rows of the tree's own points.
    wanted
        Points for each row, itself included; no more than the tree has.
    radius_um
        How far to look.

    Returns
    -------
    tuple[Ints, Floats]
        Rows of the tree and distances in um, (m, wanted); row n and infinity where the radius holds fewer.

    Notes
    -----
    The k-th smallest distance is sure, but which of the points at that distance a tree returns is not. So a few more
    are fetched, and twice as many again for rows where these too are all tied with the k-th.
    """
    n = tree.n
    found = np.empty((len(rows), wanted), dtype=np.int64)
    away = np.empty((len(rows), wanted))
    place = np.empty(n, dtype=np.int64)
    place[tree.indices] = np.arange(n)
    todo = np.argsort(place[rows])  # from one leaf of the tree to the next, or every search would start cold
    width = min(wanted + SPARE, n)
    while len(todo):
        open_still = []
        for part in blocks(len(todo), width):
            block = todo[part]
            d, near = tree.query(tree.data[rows[block]], k=width, distance_upper_bound=radius_um + 2 * TIE_UM)
            d, near = d.reshape(len(block), width), near.reshape(len(block), width)
            with np.errstate(invalid="ignore"):
                apart = ~(np.diff(d, axis=1) <= TIE_UM)  # (m, width - 1); infinity less infinity is no tie
            whole = apart[:, wanted - 1 :].any(axis=1) | (width == n)
            tied = np.flatnonzero(~apart.all(axis=1) & whole)
            near[tied] = _by_row(near[tied], apart[tied], rows[block[tied]])
            found[block], away[block] = near[:, :wanted], d[:, :wanted]
            open_still.append(block[~whole])
        todo, width = np.concatenate(open_still), min(2 * width, n)
    return found, away


def _by_row(near: Ints, apart: NDArray[Any], own: Ints) -> Ints:
    """Order tied points by row, and each row's own before all others at its place.

    Distances need no new order: those of a tie are one distance.
    """
    group = np.zeros(near.shape, dtype=np.int64)
    np.cumsum(apart, axis=1, out=group[:, 1:])
    base = np.int64(near.max(initial=0)) + 1
    key = group * base + near
    key[near == own[:, None]] = -1
    key.sort(axis=1)
    ordered = key % base
    ordered[:, 0] = own
    return ordered
