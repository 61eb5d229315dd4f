"""Neighbours in feature space for the rows of a table: look-alikes of another patient, for heads to attend to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats
from .errors import StoreError
from .nearest import Groups, flat_index, search_exact, unit_rows
from .neighbours import Neighbourhood

BLOCK = 4096


def nearest_in_features(
    features: Floats,
    k: int,
    *,
    group: NDArray[np.generic] | None = None,
    queries: Floats | None = None,
    query_group: NDArray[np.generic] | None = None,
    device: str = "cpu",
) -> Neighbourhood:
    """The k rows of largest cosine for every row, exactly, ties by row; a row is never its own neighbour.

    Parameters
    ----------
    features
        (n, dim) standardised features, such as `table.features()` after preparation.
    k
        Neighbours.
    group
        (n,) group of each row, such as its patient: neighbours never come from the query's own group.
    queries
        (m, dim) other rows, such as those of test slides, that look for neighbours among `features`; the rows of
        `features` themselves where not given.
    query_group
        (m,) their groups, named as in `group`; where not given they may get every row.
    device
        "cpu", "cuda" or "auto".

    Returns
    -------
    Neighbourhood
        `index` (m, k) rows of `features`, `mask` False where fewer than k may be had, `distance` 1 - cosine.

    Raises
    ------
    StoreError
        If k is not positive, or groups and rows differ in number.
    """
    own = np.arange(len(features)) if queries is None else None
    asked = features if queries is None else queries
    names = group if queries is None else query_group
    groups = None
    if group is not None and names is not None:
        _check_length(group, len(features), "group")
        _check_length(names, len(asked), "query_group")
        number = np.unique(np.concatenate([group, names]), return_inverse=True)[1]
        groups = Groups(number[: len(features)], number[len(features) :])
    index = flat_index(unit_rows(features), device=device)
    found = np.full((len(asked), max(k, 1)), -1, dtype=np.int64)
    cosine = np.zeros(found.shape)
    for start in range(0, len(asked), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(asked)))
        mine = None if groups is None else groups.of(rows)
        best = search_exact(index, unit_rows(asked[rows]), k, groups=mine, own=None if own is None else own[rows])
        width = best[1].shape[1]
        cosine[rows, :width], found[rows, :width] = best
    return Neighbourhood.where(found >= 0, found, 1.0 - cosine)


def _check_length(group: NDArray[np.generic], rows: int, name: str) -> None:
    if len(group) != rows:
        msg = f"{name} has {len(group)} entries for {rows} rows: give one a row"
        raise StoreError(msg)
