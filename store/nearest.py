"""Exact nearest rows in feature space, on arrays: an index proposes in fp32, float64 decides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Ints
from .errors import StoreError
from .nearest_flat import FaissFlat, FlatIndex, Groups, NumpyFlat

__all__ = ["FaissFlat", "FlatIndex", "Groups", "NumpyFlat", "flat_index", "score", "search_exact", "unit_rows"]

MARGIN = 16
"""Candidates fetched beyond k, so that fp32 rounding seldom asks for a second look."""

SCORED_BYTES = 4 * 2**20
"""Candidates are scored again so many bytes at a time: as many as stay in the cache."""


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
        from .nearest_gpu import gpu_flat

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
    while len(open_):
        fetch = min(fetch, int(possible[open_].max()))
        rough, found = index.top(queries[open_], fetch, None if groups is None else groups.of(open_))
        exact, kept = score(index, queries[open_], found, k=k, own=None if own is None else own[open_])
        scores[open_, : exact.shape[1]], rows[open_, : exact.shape[1]] = exact, kept
        # A row that was not proposed scores at most the last proposal plus its rounding.
        unsure = rough[:, -1] + index.rounding * length[open_] >= scores[open_, k - 1]
        open_ = open_[unsure & (fetch < possible[open_])]
        fetch *= 2
    return scores, rows


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
    m, candidates = found.shape
    exact = np.empty(found.shape)
    step = max(1, SCORED_BYTES // max(8 * candidates * queries.shape[1], 1))
    for start in range(0, m, step):
        some = slice(start, start + step)
        wide = index.vectors(np.maximum(found[some], 0).ravel()).astype(np.float64)
        wide = wide.reshape(-1, candidates, queries.shape[1])
        wide *= queries[some, None].astype(np.float64)
        exact[some] = wide.sum(axis=2)  # summed row by row, so that equal vectors get equal scores
    exact[found < 0] = -np.inf
    order = np.lexsort((found, -exact))[:, :k]
    return np.take_along_axis(exact, order, axis=1), np.take_along_axis(found, order, axis=1).astype(np.int64)


def _first_rows(n: int, k: int, *, groups: Groups | None, own: Ints | None, query: int) -> Ints:
    """The first k rows that one query may get."""
    keep = np.ones(n, dtype=np.bool_) if groups is None else groups.rows != groups.queries[query]
    if own is not None and own[query] >= 0:
        keep[own[query]] = False
    return np.flatnonzero(keep)[:k]
