"""Exact nearest rows in feature space, on arrays: FAISS where it is installed, else numpy in blocks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats, Ints
from .errors import StoreError

MARGIN = 16
"""Candidates fetched beyond k, so that fp32 rounding cannot push out a true neighbour."""

ROUNDING = 1e-5
"""Bound on the fp32 error of an inner product of unit vectors, with room to spare."""


class FlatIndex(Protocol):
    """Finds the rows of largest inner product and gives their vectors back."""

    ntotal: int

    def top(self, queries: NDArray[np.float32], k: int, allowed: Bools | None) -> tuple[Floats, Ints]:
        """Scores and rows (m, k), best first; row -1 where fewer are allowed."""
        ...

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """The stored vectors (len(rows), dim)."""
        ...


class NumpyFlat:
    """Brute force in blocks of queries, for machines without FAISS."""

    def __init__(self, base: NDArray[np.float32]) -> None:
        self.base, self.ntotal = base, len(base)

    def top(self, queries: NDArray[np.float32], k: int, allowed: Bools | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        width = min(k, self.ntotal)
        for start in range(0, len(queries), 256):
            block = queries[start : start + 256] @ self.base.T  # (m, n)
            if allowed is not None:
                block[:, ~allowed] = -np.inf
            best = np.argpartition(-block, width - 1, axis=1)[:, :width]
            value = np.take_along_axis(block, best, axis=1)
            order = np.argsort(-value, axis=1, kind="stable")
            stop = start + len(block)
            scores[start:stop, :width] = np.take_along_axis(value, order, axis=1)
            rows[start:stop, :width] = np.take_along_axis(best, order, axis=1)
        rows[np.isneginf(scores)] = -1
        return scores, rows

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """See `FlatIndex`."""
        return self.base[rows]


class FaissFlat:
    """`faiss.IndexFlatIP` behind the same door."""

    def __init__(self, index: Any) -> None:
        self.index, self.ntotal = index, int(index.ntotal)

    @classmethod
    def build(cls, base: NDArray[np.float32]) -> FaissFlat:
        """Index the rows of `base` (n, dim).

        Raises
        ------
        ImportError
            If FAISS is not installed.
        """
        import faiss

        index = faiss.IndexFlatIP(base.shape[1])
        index.add(np.ascontiguousarray(base))
        return cls(index)

    def top(self, queries: NDArray[np.float32], k: int, allowed: Bools | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        import faiss

        parameters = None
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            # The selector keeps a bare pointer into the bitmap, which therefore stays a local name until the end.
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
        scores, rows = self.index.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, rows

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """See `FlatIndex`."""
        found: NDArray[np.float32] = self.index.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))
        return found


def flat_index(base: NDArray[np.float32]) -> FlatIndex:
    """The fastest exact index that this machine can build over `base` (n, dim)."""
    try:
        return FaissFlat.build(base)
    except ImportError:
        return NumpyFlat(base)


def unit_rows(values: Floats) -> NDArray[np.float32]:
    """Rows scaled to length one, norms in float64; rows of zeros stay zero."""
    wide = np.asarray(values, dtype=np.float64)
    norm = np.sqrt((wide**2).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.where(norm > 0, norm, 1.0), dtype=np.float32)


def search_exact(
    index: FlatIndex, queries: NDArray[np.float32], k: int, *, allowed: Bools | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k rows of largest inner product among those allowed, ties broken by row.

    The index proposes in fp32; the proposal is scored again in float64, and widened until no row outside it could
    belong to the answer.

    Parameters
    ----------
    queries
        (m, dim) unit vectors.
    allowed
        (n,) True for rows that may be returned; all where not given.

    Returns
    -------
    tuple
        Scores (m, k) float64 and rows (m, k), k at most the number of rows; -inf and -1 where fewer are allowed.

    Raises
    ------
    StoreError
        If k is not positive.
    """
    if k < 1:
        msg = f"k = {k}: ask for at least one neighbour"
        raise StoreError(msg)
    k = min(k, max(index.ntotal, 1))  # a k beyond the store is all of it
    possible = index.ntotal if allowed is None else int(allowed.sum())
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    if not queries.any(axis=1).all():  # a query of zeros is equally far from all rows: the first ones win the tie
        first = np.arange(index.ntotal) if allowed is None else np.flatnonzero(allowed)
        blank = np.flatnonzero(~queries.any(axis=1))
        rows[blank, : len(first[:k])], scores[blank, : len(first[:k])] = first[:k], 0.0
    open_, fetch = np.flatnonzero(queries.any(axis=1)), min(k + MARGIN, possible)
    while len(open_) and fetch:
        rough, found = index.top(queries[open_], fetch, allowed)
        exact = _score(index, queries[open_], found)  # (m, fetch)
        order = np.lexsort((found, -exact))[:, :k]
        width = order.shape[1]
        scores[open_, :width] = np.take_along_axis(exact, order, axis=1)
        rows[open_, :width] = np.take_along_axis(found, order, axis=1)
        unsure = rough[:, -1] + ROUNDING >= scores[open_, min(k, fetch) - 1]
        open_ = open_[unsure] if fetch < possible else open_[:0]
        fetch = min(2 * fetch, possible)
    return scores, rows


def _score(index: FlatIndex, queries: NDArray[np.float32], found: Ints) -> NDArray[np.float64]:
    """Inner products in float64, (m, c). Summed row by row, so that equal vectors get equal scores."""
    exact = np.empty(found.shape)
    for i, candidates in enumerate(found):
        vectors = index.vectors(candidates).astype(np.float64)
        exact[i] = (vectors * queries[i].astype(np.float64)).sum(axis=1)
    return exact
