"""Boosted trees: small trees, each fitted to what those before it left over."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.table import Table
from ..contract import training_arrays, with_views
from ..engine.selection import MOST_INNER_FOLDS, merge_folds
from ..linear.principal import Principal, gene_spread
from ..protocols.inner import choose, inner_folds

ROUNDS = (10, 20, 40, 80)
FIXED_ROUNDS = 20
BINS = 64


class Boosted:
    """scikit-learn's histogram gradient boosting on principal components of the features, one for each of the targets.

    Boosted trees know one target each, and 250 genes would cost 250 ensembles. The genes' leading principal components
    carry what they share, so 16 ensembles are fitted and mapped back: predictions have rank 16. The number of rounds is
    chosen on at most three inner folds, all candidates from one fit. Features are cut into 64 quantiles of the training
    spots beforehand: left to scikit-learn, weighted quantiles take most of the time, anew for every ensemble. Cost:
    1,500 spots x 250 genes about ten seconds on one core, growing with the number of spots.

    After the XGBoost probe of HEST-Benchmark (trees of depth 3, rate 0.1, 100 rounds).

    Parameters
    ----------
    rounds
        Trees of each ensemble. None chooses on inner folds, or takes 20 where there are too few training slides.
    depth, rate
        Depth of a tree, and what is taken of each.
    pca, components
        Principal components of the features and of the targets (standardised per gene) that are kept.
    seed
        Passed to scikit-learn, which draws nothing with these options below 200,000 spots.
    """

    def __init__(
        self,
        *,
        rounds: int | None = None,
        depth: int = 3,
        rate: float = 0.1,
        pca: int = 32,
        components: int = 16,
        seed: int = 0,
    ) -> None:
        self.rounds, self.depth, self.rate = rounds, depth, rate
        self.pca, self.components, self.seed = pca, components, seed

    def fit(self, table: Table) -> Self:
        """Choose the number of rounds, then learn from all rows."""
        y, weights = training_arrays(table)
        x, self.views_ = table.features(), tuple(table.columns)
        self.spread_ = gene_spread(y, weights)
        self.rounds_, self.chosen_ = self._choose_rounds(table, x, y)
        self._fit_rows(x, y, weights, rounds=self.rounds_)
        self.n_parameters_ = len(self.models_) * self.rounds_ * 2**self.depth  # values of leaves, at most
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self._staged(with_views(table, self.views_).features(), (self.rounds_,))[0].astype(np.float32)

    def _fit_rows(self, x: Floats, y: Floats, weights: Floats, *, rounds: int) -> None:
        import torch
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        self.inputs_ = Principal.fit(x, weights, size=self.pca)
        self.outputs_ = Principal.fit(y / self.spread_, weights, size=self.components)
        quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
        self.edges_ = np.quantile(self.inputs_.transform(x), quantiles, axis=0)  # (BINS - 1, k)
        binned, targets = self._binned(x), self.outputs_.transform(y / self.spread_)
        with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
            self.models_ = [
                HistGradientBoostingRegressor(
                    max_iter=rounds,
                    max_depth=self.depth,
                    learning_rate=self.rate,
                    early_stopping=False,
                    random_state=self.seed,
                ).fit(binned, target, sample_weight=weights)
                for target in targets.T
            ]

    def _staged(self, x: Floats, rounds: tuple[int, ...]) -> list[Floats]:
        """Predictions (m, n_panel) after each number of rounds, ascending."""
        binned = self._binned(x)
        out = np.empty((len(rounds), len(x), len(self.models_)))
        for component, model in enumerate(self.models_):
            for done, found in enumerate(model.staged_predict(binned), start=1):
                if done in rounds:
                    out[rounds.index(done), :, component] = found
        return [self.outputs_.restore(found) * self.spread_ for found in out]

    def _binned(self, x: Floats) -> Floats:
        """Number of the quantile of each component, (m, k)."""
        columns = zip(self.edges_.T, self.inputs_.transform(x).T, strict=True)
        return np.stack([np.searchsorted(edges, values) for edges, values in columns], axis=1).astype(np.float64)

    def _choose_rounds(self, table: Table, x: Floats, y: Floats) -> tuple[int, dict[str, Any]]:
        if self.rounds is not None:
            return self.rounds, {"rounds": self.rounds, "selection": "given"}
        rule, folds = inner_folds(table)
        if rule == "fixed":
            return FIXED_ROUNDS, {"rounds": FIXED_ROUNDS, "selection": "fixed"}
        weights = training_arrays(table)[1]

        def predict(train: Ints, held: Ints) -> list[Floats]:
            self._fit_rows(x[train], y[train], weights[train], rounds=max(ROUNDS))
            return self._staged(x[held], ROUNDS)

        best, scores = choose(ROUNDS, merge_folds(folds, MOST_INNER_FOLDS), truth=y, slide=table.slide, predict=predict)
        scored = dict(zip(map(str, ROUNDS), scores, strict=True))
        return int(best), {"rounds": int(best), "selection": rule, "inner_scores": scored}
