"""Random forest: averages over neighbourhoods that the targets themselves have drawn."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.table import Table
from ..contract import training_arrays, with_views
from ..linear.principal import Principal, gene_spread


class Forest:
    """scikit-learn's random forest on principal components of the features, fitted to those of the targets.

    A tree splits where the squared error summed over targets falls most, so that one forest serves all genes; the
    leading components of the targets carry what genes share, and the rest is close to noise. Cost: 1,500 spots x 250
    genes some seconds, growing with spots x log(spots); memory some 100 bytes a node and component, of about
    trees x spots / `leaf` nodes. Trees grow on as many threads as torch has; the result does not depend on them.

    After the random-forest probe of HEST-Benchmark (70 trees, one forest a gene, features after PCA).

    Parameters
    ----------
    trees
        Number of trees.
    pca, components
        Principal components of the features and of the targets (standardised per gene) that are kept.
    leaf
        Fewest training spots in a leaf.
    seed
        Of the bootstrap and the features tried at a split.
    """

    def __init__(self, *, trees: int = 70, pca: int = 64, components: int = 32, leaf: int = 5, seed: int = 0) -> None:
        self.trees, self.pca, self.components, self.leaf, self.seed = trees, pca, components, leaf, seed

    def fit(self, table: Table) -> Self:
        """Learn from a prepared table."""
        from sklearn.ensemble import RandomForestRegressor

        y, weights = training_arrays(table)
        x, self.views_ = table.features(), tuple(table.columns)
        self.inputs_ = Principal.fit(x, weights, size=self.pca)
        self.spread_ = gene_spread(y, weights)
        self.outputs_ = Principal.fit(y / self.spread_, weights, size=self.components)
        targets = self.outputs_.transform(y / self.spread_)
        targets = targets[:, 0] if targets.shape[1] == 1 else targets  # as scikit-learn wants a single one
        self.forest_ = RandomForestRegressor(
            self.trees,
            min_samples_leaf=self.leaf,
            max_features=1 / 3,
            random_state=self.seed,
            n_jobs=torch.get_num_threads(),
        ).fit(self.inputs_.transform(x), targets, sample_weight=weights)
        self.forest_.n_jobs = 1  # trees are added up in their order, whatever the number of threads
        self.n_parameters_ = sum(int(tree.tree_.value.size) for tree in self.forest_.estimators_)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        found = self.forest_.predict(self.inputs_.transform(with_views(table, self.views_).features()))
        found = found.reshape(len(table), -1)  # scikit-learn drops the axis of a single target
        return np.asarray(self.outputs_.restore(found) * self.spread_, dtype=np.float32)
