"""Nearest neighbours in feature space: what retrieval alone can do."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.search.exact import flat_index, search_exact, unit_rows
from ...store.table import Table
from ..contract import training_arrays, with_views
from ..protocols.inner import choose, inner_folds

CANDIDATES = (10, 25, 50, 100, 200)
FIXED_K = 50
BLOCK = 512


class NearestNeighbours:
    """Weighted mean of the slide-centred targets of the k most similar training spots, by the store's exact search.

    Similarity is the cosine over all views side by side, standardised as the protocol says.

    Parameters
    ----------
    k
        Neighbours. None chooses on inner folds, or takes 50 where there are too few slides.
    """

    def __init__(self, *, k: int | None = None) -> None:
        self.k = k

    def fit(self, table: Table) -> Self:
        """Keep the training rows, and choose k."""
        self.targets_, self.weights_ = training_arrays(table)
        self.views_ = tuple(table.columns)
        self.vectors_ = unit_rows(table.features())
        rule, folds = inner_folds(table)
        if self.k is not None or rule == "fixed":
            # The mean of all training spots is no neighbourhood, so a small table gets a smaller one.
            self.k_ = min(FIXED_K, max(1, len(table) // 2)) if self.k is None else self.k
            self.chosen_: dict[str, object] = {"k": self.k_, "selection": "given" if self.k else "fixed"}
        else:
            best, scores = choose(CANDIDATES, folds, truth=self.targets_, slide=table.slide, predict=self._inner)
            self.k_ = int(best)
            scored = {str(k): score for k, score in zip(CANDIDATES, scores, strict=True)}
            self.chosen_ = {"k": self.k_, "selection": rule, "inner_scores": scored}
        self.n_parameters_ = 0
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        every = np.arange(len(self.vectors_))
        queries = unit_rows(with_views(table, self.views_).features())
        return self._means(every, queries, (self.k_,))[0].astype(np.float32)

    def _inner(self, train: Ints, held: Ints) -> list[Floats]:
        return self._means(train, self.vectors_[held], CANDIDATES)

    def _means(self, train: Ints, queries: NDArray[np.float32], sizes: tuple[int, ...]) -> list[Floats]:
        """Predictions (m, g) for each k, from one search for the largest."""
        k = min(max(sizes), len(train))
        index = flat_index(self.vectors_[train])
        out: list[Floats] = [np.empty((len(queries), self.targets_.shape[1])) for _ in sizes]
        for start in range(0, len(queries), BLOCK):  # neighbours x genes of all queries at once would not fit
            block = slice(start, start + BLOCK)
            rows = train[search_exact(index, queries[block], k)[1]]  # (b, k)
            weights, targets = self.weights_[rows].astype(np.float64), self.targets_[rows]  # (b, k), (b, k, g)
            for filled, size in zip(out, sizes, strict=True):
                w = weights[:, :size] / np.maximum(weights[:, :size].sum(axis=1, keepdims=True), 1e-12)
                filled[block] = np.einsum("mk,mkg->mg", w, targets[:, :size], optimize=True)
        return out
