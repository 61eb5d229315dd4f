"""Inverted lists of fp16 codes (FAISS): for millions of rows. They propose, the stored vectors decide."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import Ints
from ..errors import MissingDependencyError
from .exact import MARGIN, checked_k, score
from .flat import BLOCK_ROWS, FlatIndex, Groups

IVF_FROM = 1_000_000
"""Rows above which `auto` takes inverted lists: exact search of one query then takes about a second."""

SAMPLED_PER_LIST = 64
"""Rows per list that the lists are laid out on; FAISS wants 39 at least."""


class Blocks(Protocol):
    """Vectors that are read in blocks."""

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        ...

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """The vectors of rows `start` to `stop`."""
        ...

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """The vectors of some rows."""
        ...


class IvfIndex:
    """A FAISS `IVF<nlist>,SQfp16` index for inner products."""

    def __init__(self, index: Any) -> None:
        self.index = index

    @property
    def nlist(self) -> int:
        """Number of lists."""
        return int(self.index.nlist)

    @classmethod
    def train(cls, blocks: Blocks, *, seed: int = 0) -> IvfIndex:
        """Lay out the lists on a sample of rows; the index holds no row yet.

        Raises
        ------
        MissingDependencyError
            If FAISS is not installed.
        """
        faiss = _faiss()
        nlist = lists_for(blocks.ntotal)
        size = min(blocks.ntotal, SAMPLED_PER_LIST * nlist)
        rows = np.sort(np.random.default_rng(seed).choice(blocks.ntotal, size=size, replace=False))
        sample = blocks.vectors(rows)
        index = faiss.index_factory(sample.shape[1], f"IVF{nlist},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 1 + seed
        index.train(sample)
        return cls(index)

    def add(self, blocks: Blocks, *, start: int = 0) -> None:
        """Add rows `start` to the last, a block at a time."""
        for first in range(start, blocks.ntotal, BLOCK_ROWS):
            self.index.add(blocks.block(first, min(first + BLOCK_ROWS, blocks.ntotal)))

    def propose(self, queries: NDArray[np.float32], fetch: int, *, nprobe: int, allowed: Any = None) -> Ints:
        """Rows (m, fetch) found in the `nprobe` nearest lists, -1 where these hold fewer that are allowed.

        Parameters
        ----------
        allowed
            (n,) True for rows that may be returned; all where not given.
        """
        faiss = _faiss()
        options = {"nprobe": min(nprobe, self.nlist)}
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            # The selector keeps a bare pointer into the bitmap, which therefore stays a local name until the end.
            options["sel"] = faiss.IDSelectorBitmap(bitmap)
        found: Ints = self.index.search(queries, fetch, params=faiss.SearchParametersIVF(**options))[1]
        return found


def lists_for(n: int) -> int:
    """Lists for n rows: the power of two nearest to 4 sqrt(n), so long as each can be laid out on 39 rows."""
    if n < 1:
        return 1
    nearest: int = 1 << round(math.log2(4 * math.sqrt(n)))
    return max(1, min(nearest, n // 39))


def search_ivf(
    ivf: IvfIndex,
    flat: FlatIndex,
    queries: NDArray[np.float32],
    k: int,
    *,
    nprobe: int,
    groups: Groups | None = None,
    own: Ints | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k rows of largest inner product among those in the nearest lists, scored with the stored vectors.

    Where exclusion leaves fewer than k candidates, more lists are looked at, until there are k or all lists are done.
    Parameters and returns as of `nearest.search_exact`.
    """
    k = checked_k(k, flat.ntotal)
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    fetch = min(k + MARGIN + (own is not None), flat.ntotal)
    names = np.zeros(len(queries), dtype=np.int64) if groups is None else groups.queries
    for group in np.unique(names):
        allowed = None if groups is None else groups.rows != group
        open_, probed = np.flatnonzero(names == group), nprobe
        while len(open_):
            found = ivf.propose(queries[open_], fetch, nprobe=probed, allowed=allowed)
            exact, kept = score(flat, queries[open_], found, k=k, own=None if own is None else own[open_])
            scores[open_], rows[open_] = exact[:, :k], kept[:, :k]
            open_ = open_[kept[:, k - 1] < 0] if probed < ivf.nlist else open_[:0]
            probed *= 4
    return scores, rows


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        msg = (
            "inverted lists need FAISS: pip install 'tissuary[cpu]' (or [gpu]), or build the index with `--kind exact`"
        )
        raise MissingDependencyError(msg) from error
    return faiss
