"""Exact nearest rows in feature space, on arrays: an index proposes in fp32, float64 decides."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from ..spatial.neighbourhood import Neighbourhood
from .flat import FaissFlat, FlatIndex, Groups, NumpyFlat

__all__ = ["FaissFlat", "FlatIndex", "Groups", "NumpyFlat", "flat_index", "score", "search_exact", "unit_rows"]

MARGIN = 16
"""Candidates fetched beyond k, so that fp32 rounding seldom asks for a second look."""

SCORED_BYTES = 4 * 2**20
"""Candidates are scored again so many bytes at a time: as many as stay in the cache."""

CANDIDATES = 2**22
"""Candidates of all queries together that are held at a time: crowds of near-copies make each query fetch many."""


def flat_index(base: NDArray[np.float32], *, longest: float = 1.0, device: str = "cpu") -> FlatIndex:
    """The fastest exact index that this machine has over `base` (n, dim), whose longest row is `longest`.

    Parameters
    ----------
    device
        "cpu", "cuda", or "auto": the GPU where torch or FAISS sees one.

    Raises
    ------
    StoreError
        If a GPU is asked for and there is none.
    """
    if device != "cpu":
        from .gpu import gpu_flat

        found = gpu_flat(base, longest=longest, device=device)
        if found is not None:
            return found
    try:
        return FaissFlat(base, longest=longest)
    except ImportError:
        return NumpyFlat(base, longest=longest)


def unit_rows(values: Floats) -> NDArray[np.float32]:
    """Rows scaled to length one, norms in float64; rows of zeros stay zero."""
    out = np.empty(values.shape, dtype=np.float32)
    for start in range(0, len(values), 4096):  # a float64 copy of all rows at once would not fit
        wide = np.asarray(values[start : start + 4096], dtype=np.float64)
        norm = np.sqrt((wide**2).sum(axis=1, keepdims=True))
        out[start : start + 4096] = wide / np.where(norm > 0, norm, 1.0)
    return out


def search_exact(
    index: FlatIndex, queries: NDArray[np.float32], k: int, *, groups: Groups | None = None, own: Ints | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k rows of largest inner product, ties broken by row.

    The index proposes; the proposal is scored again in float64, and widened until no row outside it could belong to
    the answer.

    Parameters
    ----------
    queries
        (m, dim) vectors.
    groups
        Leaves the rows of each query's own group out.
    own
        (m,) row of each query in the index, which is left out; -1 where it has none.

    Returns
    -------
    tuple
        Scores (m, k) float64 and rows (m, k), k at most the number of rows; -inf and -1 where a query may get fewer.

    Raises
    ------
    StoreError
        If k is not positive.
    """
    k = checked_k(k, index.ntotal)
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    possible = np.full(len(queries), index.ntotal) if groups is None else groups.possible()
    length = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1)) if len(queries) else np.zeros(0)
    for blank in np.flatnonzero(length == 0):  # equally far from all rows: the first ones win the tie
        first = _first_rows(index.ntotal, k, groups=groups, own=own, query=int(blank))
        rows[blank, : len(first)], scores[blank, : len(first)] = first, 0.0
    open_, fetch = np.flatnonzero((length > 0) & (possible > 0)), k + MARGIN + (own is not None)
    for start in range(0, len(open_), step := max(1, CANDIDATES // fetch)):
        some = open_[start : start + step]
        mine, asker = None if own is None else own[some], None if groups is None else groups.of(some)
        most = min(fetch, int(possible[some].max()))
        scores[some], rows[some], bound = _look(index, queries[some], k, fetch=most, groups=asker, own=mine)
        crowded = some[(bound >= scores[some, -1]) & (most < possible[some])]
        if len(crowded):
            asker = None if groups is None else groups.of(crowded)
            best, found = _look_wider(index, queries[crowded], k + (own is not None), fetch=4 * fetch, groups=asker)
            mine = None if own is None else own[crowded]
            scores[crowded], rows[crowded] = _without(best, found, mine, k=k)
    return scores, rows


def _look(
    index: FlatIndex,
    queries: NDArray[np.float32],
    k: int,
    *,
    fetch: int,
    groups: Groups | None = None,
    own: Ints | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], Floats]:
    """The best k of `fetch` proposals, and what a row that was not proposed scores at most, (m,)."""
    rough, found = index.top(queries, fetch, groups)
    length = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1))
    error, wanted = index.rounding * length, k + (own is not None)
    if wanted < rough.shape[1]:  # a proposal that rounding cannot lift to the k-th need not be scored again
        likely = rough >= (rough[:, wanted - 1] - 2 * error)[:, None]
        found = found[:, : int(likely.sum(axis=1).max())]
    scores, rows = score(index, queries, found, k=k, own=own)
    if scores.shape[1] < k:
        pad = ((0, 0), (0, k - scores.shape[1]))
        scores, rows = np.pad(scores, pad, constant_values=-np.inf), np.pad(rows, pad, constant_values=-1)
    return scores, rows, rough[:, -1] + error


def _look_wider(
    index: FlatIndex, queries: NDArray[np.float32], k: int, *, fetch: int, groups: Groups | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k rows of largest inner product, from more and more proposals.

    Who comes here lies in a crowd, mostly of equal patches such as empty glass: equal queries are answered once.
    """
    group = np.zeros(len(queries)) if groups is None else groups.queries
    place: dict[tuple[bytes, float], int] = {}
    same = [place.setdefault((query.tobytes(), one), len(place)) for query, one in zip(queries, group, strict=True)]
    chosen = np.unique(same, return_index=True)[1]
    queries, groups = queries[chosen], None if groups is None else groups.of(chosen)
    possible = np.full(len(queries), index.ntotal) if groups is None else groups.possible()
    scores, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    open_ = np.arange(len(queries))
    while len(open_):
        fetch, left = min(fetch, int(possible[open_].max())), []
        for start in range(0, len(open_), step := max(1, CANDIDATES // fetch)):
            some = open_[start : start + step]
            asker = None if groups is None else groups.of(some)
            scores[some], rows[some], bound = _look(index, queries[some], k, fetch=fetch, groups=asker)
            left.append(some[(bound >= scores[some, -1]) & (fetch < possible[some])])
        open_, fetch = np.concatenate(left), 4 * fetch
    return scores[same], rows[same]


def _without(
    scores: NDArray[np.float64], rows: NDArray[np.int64], own: Ints | None, *, k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The first k columns that are not each query's own row."""
    if own is not None:
        behind = np.argsort(rows == own[:, None], axis=1, kind="stable")
        rows = np.take_along_axis(np.where(rows == own[:, None], -1, rows), behind, axis=1)
        scores = np.where(rows < 0, -np.inf, np.take_along_axis(scores, behind, axis=1))
    return scores[:, :k], rows[:, :k]


def checked_k(k: int, ntotal: int) -> int:
    """K, at most the number of rows.

    Raises
    ------
    StoreError
        If k is not positive.
    """
    if k < 1:
        msg = f"k = {k}: ask for at least one neighbour"
        raise StoreError(msg)
    return min(k, max(ntotal, 1))  # a k beyond the store is all of it


def score(
    index: FlatIndex, queries: NDArray[np.float32], found: Ints, *, k: int, own: Ints | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The best k of the candidates `found` (m, c), scored in float64: scores and rows (m, min(k, c)).

    Candidates that are -1, and each query's own row, are left out.
    """
    found = found if own is None else np.where(found == own[:, None], -1, found)
    (m, candidates), dim = found.shape, queries.shape[1]
    exact = np.empty(found.shape)
    across = max(1, min(candidates, SCORED_BYTES // (8 * max(dim, 1))))
    step = max(1, SCORED_BYTES // max(8 * across * dim, 1))
    for start, first in itertools.product(range(0, m, step), range(0, candidates, across)):
        some, these = slice(start, start + step), slice(first, first + across)
        place = np.maximum(found[some, these], 0)
        wide = index.vectors(place.ravel()).astype(np.float64).reshape(*place.shape, dim)
        wide *= queries[some, None].astype(np.float64)
        exact[some, these] = wide.sum(axis=2)  # summed row by row, so that equal vectors get equal scores
    exact[found < 0] = -np.inf
    order = np.lexsort((found, -exact))[:, :k]
    return np.take_along_axis(exact, order, axis=1), np.take_along_axis(found, order, axis=1).astype(np.int64)


def _first_rows(n: int, k: int, *, groups: Groups | None, own: Ints | None, query: int) -> Ints:
    """The first k rows that one query may get."""
    keep = np.ones(n, dtype=np.bool_) if groups is None else groups.rows != groups.queries[query]
    if own is not None and own[query] >= 0:
        keep[own[query]] = False
    return np.flatnonzero(keep)[:k]


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
