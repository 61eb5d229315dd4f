"""The window around a spot on its array: square, staggered or hexagonal, each place always the same offset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from .nearest import checked_centers, rows_by_slide
from .neighbourhood import Neighbourhood

MAX_POSITION = 1 << 30
"""Largest array position; two of them, and a window beside, fit into one 64-bit number."""

SURE_FROM = 20
"""Spots from which a slide tells the kind of its array; of fewer, those of a square array may all be even by chance."""

BETWEEN_HEX_AND_STAGGERED = 2**0.25
"""A step of two columns over a diagonal step is 1 on a hexagonal array and the root of 2 on a staggered one."""

BETWEEN_STAGGERED_AND_SWAPPED = 6**0.25
"""The same ratio is the root of 3 on a hexagonal array whose rows and columns were swapped."""


def lattice(
    array: Ints,
    k: int,
    *,
    center_um: Floats,
    kind: str = "auto",
    slide: Ints | None = None,
    self_included: bool = True,
) -> Neighbourhood:
    """The spots in a window around each spot, by their positions on the array.

    Parameters
    ----------
    array
        (n, 2) row and column. On hexagonal arrays (Visium) and staggered ones columns step by two along a row, and the
        next row lies half a step aside.
    k
        Side of the window, odd; see `window_offsets`.
    center_um
        (n, 2) positions, for the distances.
    kind
        "square", "staggered", "hex", or "auto": see `array_kind`.
    slide
        (n,) slide of each row; rows of other slides are never neighbours. One slide where not given.
    self_included
        Whether the window keeps its middle, which is the row itself. Without it the window has one place less.

    Returns
    -------
    Neighbourhood
        (n, places), in the order of `window_offsets`; masked where the array has no spot. A window does not wrap around
        the border of an array.

    Raises
    ------
    StoreError
        If k is even or not positive, two spots share a position, positions do not belong to the kind of array that was
        asked for, or lengths differ.
    """
    array, center_um = _checked_array(array), checked_centers(center_um)
    if len(array) != len(center_um):
        msg = f"{len(array)} array positions for {len(center_um)} spots: give one a row"
        raise StoreError(msg)
    kind = array_kind(array, center_um=center_um, slide=slide) if kind == "auto" else kind
    offsets = window_offsets(k, kind=kind)
    if not self_included:
        offsets = np.delete(offsets, len(offsets) // 2, axis=0)
    index = np.full((len(array), len(offsets)), -1, dtype=np.int64)
    for rows in rows_by_slide(slide, len(array)):
        if kind != "square":
            _check_parity(array[rows], kind)
        local = _rows_at(array[rows], offsets, names=rows)
        index[rows] = np.where(local >= 0, rows[local], -1)
    step = center_um[index] - center_um[:, None]
    return Neighbourhood.where(index >= 0, index, np.hypot(step[..., 0], step[..., 1]))


def window_offsets(k: int, *, kind: str) -> Ints:
    """Steps (places, 2) in rows and columns from a spot to the places of its window, row by row, itself in the middle.

    "square" has k x k places; "staggered" as many, on a square that stands on its corner; "hex" has the spot and
    (k - 1) / 2 rings around it: 7 places for k = 3, 19 for k = 5.

    Raises
    ------
    StoreError
        If k is even or not positive, or there is no such kind.

    Examples
    --------
    >>> window_offsets(3, kind="hex").tolist()
    [[-1, -1], [-1, 1], [0, -2], [0, 0], [0, 2], [1, -1], [1, 1]]
    """
    if k != int(k) or k < 1 or k % 2 != 1:
        msg = f"a window of side {k} has no middle: give an odd number, such as 3 or 5"
        raise StoreError(msg)
    reach = int(k) // 2
    span = np.arange(-2 * reach, 2 * reach + 1)
    steps = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)  # row by row
    rows, columns = np.abs(steps).T
    diagonal = (rows + columns) % 2 == 0
    inside = {
        "square": np.maximum(rows, columns) <= reach,
        "staggered": diagonal & (rows + columns <= 2 * reach),
        "hex": diagonal & (rows + np.maximum(columns - rows, 0) // 2 <= reach),  # a step down moves one column for free
    }
    if kind not in inside:
        msg = f"array kind {kind!r}: choose {', '.join(inside)} or auto"
        raise StoreError(msg)
    return np.asarray(steps[inside[kind]])


def array_kind(array: Ints, *, center_um: Floats, slide: Ints | None = None) -> str:
    """Which kind of array positions belong to, by their parity and by the lengths of steps.

    Square unless row + column is even (or odd) all over each slide. Such arrays are hexagonal, unless a step of two
    columns is about 1.4 times as long as a diagonal one: then they are staggered, a square array standing on its
    corner. Where no two spots are a diagonal or two columns apart, the array counts as square.

    Raises
    ------
    StoreError
        If rows and columns of a hexagonal array look swapped, two spots share a position, or slides lie on arrays of
        different kinds.
    """
    array, center_um = _checked_array(array), checked_centers(center_um)
    groups = rows_by_slide(slide, len(array))
    kinds = [_kind_of_one(array[group], center_um[group], names=group) for group in groups]
    sure = {kind for kind, group in zip(kinds, groups, strict=True) if kind and len(group) >= SURE_FROM}
    if len(sure) > 1:
        msg = f"slides lie on different arrays ({', '.join(sorted(sure))}): take windows slide by slide"
        raise StoreError(msg)
    told = sure or {kind for kind in kinds if kind}
    return told.pop() if len(told) == 1 else "square"


def _kind_of_one(array: Ints, center_um: Floats, *, names: Ints) -> str | None:
    """The kind of one slide's array; None where nothing tells."""
    if len(np.unique(array.sum(axis=1) % 2)) > 1:
        return "square"
    found = _rows_at(array, np.array([[0, 2], [1, 1], [1, -1]]), names=names)
    lengths = []
    for columns in ([0], [1, 2]):
        start, column = np.nonzero(found[:, columns] >= 0)
        step = center_um[found[:, columns][start, column]] - center_um[start]
        lengths.append(np.hypot(step[:, 0], step[:, 1]))
    along, diagonal = lengths
    if not len(along) or not len(diagonal):
        return "hex" if len(along) or len(diagonal) else None
    ratio = float(np.median(along) / np.median(diagonal))
    if ratio > BETWEEN_STAGGERED_AND_SWAPPED:
        msg = (
            f"a step of two columns is {ratio:.2f} times a diagonal one; on a hexagonal array it is 1, on a staggered "
            "one 1.41. Are rows and columns swapped? Swap them, or say which kind the array is."
        )
        raise StoreError(msg)
    return "hex" if ratio < BETWEEN_HEX_AND_STAGGERED else "staggered"


def _rows_at(array: Ints, offsets: Ints, *, names: Ints) -> Ints:
    """Row at each offset from each position of one slide, (n, places); -1 where there is none."""
    code = _code(array)
    order = np.argsort(code, kind="stable")
    code = code[order]
    twice = np.flatnonzero(code[1:] == code[:-1])
    if len(twice):
        one, other = order[twice[0]], order[twice[0] + 1]
        row, column = array[one]
        msg = (
            f"spots {names[one]} and {names[other]} both lie at row {row}, column {column} of the array "
            f"({len(twice)} such): a position holds one spot, so correct the positions or leave one out"
        )
        raise StoreError(msg)
    wanted = _code(array[:, None] + offsets)  # (n, places)
    at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
    return np.where(code[at] == wanted, order[at], -1)


def _code(position: Ints) -> Ints:
    """One number for row and column (..., 2); a column off the array's edge is never another row's."""
    return (position[..., 0] << 32) + position[..., 1]


def _checked_array(array: Ints) -> NDArray[np.int64]:
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[1] != 2 or not np.issubdtype(array.dtype, np.integer):
        msg = f"array positions {array.shape} of type {array.dtype}: wanted whole numbers (n, 2), row and column"
        raise StoreError(msg)
    if array.size and np.abs(array.astype(np.int64)).max() > MAX_POSITION:
        msg = f"array positions up to {np.abs(array.astype(np.int64)).max()}: no array is that large"
        raise StoreError(msg)
    return array.astype(np.int64)


def _check_parity(array: Ints, kind: str) -> None:
    if len(np.unique(array.sum(axis=1) % 2)) > 1:
        msg = (
            f"row + column is even for some spots and odd for others, so this is no {kind} array, whose columns step "
            'by two: take kind="square", or correct the positions'
        )
        raise StoreError(msg)
