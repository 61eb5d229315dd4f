"""Indexes that look at every row: numpy in blocks, FAISS where it is installed and faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints

BLOCK_ROWS = 16384
BLOCK_QUERIES = 1024
"""One block of scores has so many rows and queries: 64 MiB."""

FAISS_QUERIES = 128
"""Queries from which FAISS multiplies matrices. Fewer it takes one by one: at 200,000 x 1,024 and 32 queries, blocks
of numpy were 4 to 5 times faster, at 128 and more both were level."""

UNIT = 2.0**-24
"""Relative rounding error of one fp32 operation."""


@dataclass(frozen=True)
class Groups:
    """What a query may not get: rows of its own group, such as its slide or patient.

    Attributes
    ----------
    rows, queries
        (n,) and (m,) group of each row and of each query.
    """

    rows: Ints
    queries: Ints

    def of(self, chosen: Ints) -> Groups:
        """The same rows, and some of the queries."""
        return Groups(self.rows, self.queries[chosen])

    def possible(self) -> Ints:
        """How many rows each query may get, (m,)."""
        names, inverse, counts = np.unique(self.rows, return_inverse=True, return_counts=True)
        del inverse
        if not len(names):
            return np.zeros(len(self.queries), dtype=np.int64)
        at = np.minimum(np.searchsorted(names, self.queries), len(names) - 1)
        own = np.where(names[at] == self.queries, counts[at], 0)
        return np.asarray(len(self.rows) - own)


class FlatIndex(Protocol):
    """Finds the rows of largest inner product and gives their vectors back."""

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        ...

    @property
    def rounding(self) -> float:
        """Bound on the error of a score of `top`, for a query of length one."""
        ...

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """Scores and rows (m, k), best first; -inf and -1 where a query may get fewer."""
        ...

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """The vectors (len(rows), dim) of some rows."""
        ...


class NumpyFlat:
    """Brute force in blocks.

    Parameters
    ----------
    base
        (n, dim) vectors.
    longest
        Length of the longest of them.
    """

    def __init__(self, base: NDArray[np.float32], *, longest: float = 1.0) -> None:
        self.base, self.longest = base, longest

    @property
    def ntotal(self) -> int:
        """See `FlatIndex`."""
        return len(self.base)

    @property
    def rounding(self) -> float:
        """See `FlatIndex`."""
        return product_error(self.base.shape[1]) * self.longest

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        return top_in_blocks(lambda start, stop: self.base[start:stop], self.ntotal, queries, k=k, groups=groups)

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """See `FlatIndex`."""
        return np.take(self.base, rows, axis=0)


class FaissFlat(NumpyFlat):
    """The same, with large batches given to FAISS.

    FAISS's own selectors leave its fast path, at 200,000 x 1,024 for an eighth of the speed, so that exclusions go
    through the blocks.

    Raises
    ------
    ImportError
        If FAISS is not installed.
    """

    def __init__(self, base: NDArray[np.float32], *, longest: float = 1.0) -> None:
        import faiss

        super().__init__(np.ascontiguousarray(base), longest=longest)
        self._faiss = faiss

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        if groups is not None or len(queries) < FAISS_QUERIES:
            return super().top(queries, k, groups)
        scores, rows = self._faiss.knn(queries, self.base, k, metric=self._faiss.METRIC_INNER_PRODUCT)
        return scores, rows


def product_error(dim: int) -> float:
    """Bound on the fp32 error of an inner product of two unit vectors.

    Any kernel in use adds in at least four partial sums (N. Higham, Accuracy and Stability, section 4.2), and by
    Cauchy and Schwarz the products add up to at most one in absolute value.
    """
    return (dim / 4 + 16) * UNIT


def top_in_blocks(
    read: Callable[[int, int], NDArray[np.float32]],
    n: int,
    queries: NDArray[np.float32],
    *,
    k: int,
    groups: Groups | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of largest inner product, with one pass over vectors that need not be in memory at once.

    Parameters
    ----------
    read
        Gives the vectors (stop - start, dim) of rows `start` to `stop` of `n`.
    queries
        (m, dim).

    Returns
    -------
    tuple
        Scores and rows (m, k), best first; -inf and -1 where a query may get fewer than k.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, n, BLOCK_ROWS):
        block = read(start, min(start + BLOCK_ROWS, n))
        for first in range(0, len(queries), BLOCK_QUERIES):
            some = slice(first, first + BLOCK_QUERIES)
            product = queries[some] @ block.T  # (m, b)
            if groups is not None:
                _leave_out(product, groups.rows[start : start + len(block)], groups.queries[some])
            _keep_best(scores[some], rows[some], product, start=start)
    return scores, rows


def _leave_out(product: NDArray[np.float32], rows: Ints, queries: Ints) -> None:
    """Set the scores of a query's own group to -inf, in place."""
    for group in np.intersect1d(rows, queries):
        product[np.ix_(queries == group, rows == group)] = -np.inf


def _keep_best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], product: NDArray[np.float32], *, start: int
) -> None:
    """Merge a block of scores (m, b) into the best so far (m, k), in place.

    Only what beats the k-th best so far is looked at: after the first blocks that is next to nothing.
    """
    m, k = scores.shape
    better = product > scores[:, -1:]
    if np.count_nonzero(better) > 8 * m * k:
        width = min(k, product.shape[1])
        column = np.argpartition(product, -width, axis=1)[:, -width:].ravel()
        query = np.repeat(np.arange(m), width)
    else:
        query, column = np.nonzero(better)
    every = np.concatenate([np.repeat(np.arange(m), k), query])
    value = np.concatenate([scores.ravel(), product[query, column]])
    place = np.concatenate([rows.ravel(), np.where(np.isneginf(product[query, column]), -1, column + start)])
    order = np.lexsort((-value, every))
    first = np.searchsorted(every[order], np.arange(m))
    best = order[first[:, None] + np.arange(k)]  # each query has at least the k it came with
    scores[...], rows[...] = value[best], place[best]
