"""Trees of scikit-learn as plain arrays that predict the same bits, so that a saved forest needs no pickle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError


@dataclass(frozen=True)
class FlatTrees:
    """Binary trees, one after the other.

    Attributes
    ----------
    first
        (n_trees + 1,) number of each tree's root, and of nodes in all.
    feature
        (n_nodes,) what a node looks at; -1 at a leaf.
    threshold
        (n_nodes,) float64: values up to it go left.
    left, right
        (n_nodes,) children, counted over all trees.
    value
        (n_nodes, k) float64, what a leaf predicts.

    Raises
    ------
    HeadError
        If a child does not come after its parent, which holds for every tree that was grown and makes descent end.
    """

    first: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats

    def __post_init__(self) -> None:
        inner = np.flatnonzero(self.feature >= 0)
        for child in (self.left[inner], self.right[inner]):
            if len(inner) and not ((child > inner).all() and child.max() < len(self.feature)):
                msg = "saved trees with a child before its parent: the file is damaged or foreign"
                raise HeadError(msg)

    @classmethod
    def joined(cls, trees: Sequence[tuple[Ints, Floats, Ints, Ints, Floats]]) -> Self:
        """From each tree's feature, threshold, left, right and value; children counted within the tree."""
        first = np.cumsum([0, *(len(tree[0]) for tree in trees)])
        shifted = [(f, t, left + at, right + at, v) for at, (f, t, left, right, v) in zip(first, trees, strict=False)]
        return cls(first, *(np.concatenate(parts) for parts in zip(*shifted, strict=True)))

    def values(self, x: Floats) -> Iterator[Floats]:
        """Predictions (m, k) of one tree after another, for rows (m, d)."""
        rows = np.arange(len(x))
        for root in self.first[:-1]:
            node = np.full(len(x), root)
            going = rows
            while len(going := going[self.feature[node[going]] >= 0]):
                here = node[going]
                smaller = x[going, self.feature[here]] <= self.threshold[here]
                node[going] = np.where(smaller, self.left[here], self.right[here])
            yield self.value[node]


@dataclass(frozen=True)
class FlatForest:
    """What `RandomForestRegressor.predict` needs: the mean over trees, added up in their order, features in float32."""

    trees: FlatTrees

    @classmethod
    def of(cls, forest: Any) -> Self:
        """From a fitted forest."""
        grown = [one.tree_ for one in forest.estimators_]
        return cls(
            FlatTrees.joined(
                [
                    (
                        np.where(tree.children_left < 0, -1, tree.feature),
                        tree.threshold,
                        tree.children_left,
                        tree.children_right,
                        tree.value[:, :, 0],
                    )
                    for tree in grown
                ]
            )
        )

    def predict(self, x: Floats) -> Floats:
        """Predict (m, k)."""
        total = np.zeros((len(x), self.trees.value.shape[1]))
        for value in self.trees.values(np.asarray(x, dtype=np.float32)):
            total += value
        total /= len(self.trees.first) - 1
        return total


@dataclass(frozen=True)
class FlatBoosting:
    """What `HistGradientBoostingRegressor.staged_predict` needs: a start, and a tree a round added to it."""

    start: float
    trees: FlatTrees

    @classmethod
    def of(cls, model: Any) -> Self:
        """From a fitted model of numerical features."""
        grown = [stage[0].nodes for stage in model._predictors]
        columns = [
            (
                np.where(nodes["is_leaf"] > 0, -1, nodes["feature_idx"]).astype(np.int64),
                nodes["num_threshold"],
                nodes["left"].astype(np.int64),
                nodes["right"].astype(np.int64),
                nodes["value"][:, None],
            )
            for nodes in grown
        ]
        return cls(float(np.asarray(model._baseline_prediction).item()), FlatTrees.joined(columns))

    def staged_predict(self, x: Floats) -> Iterator[NDArray[np.float64]]:
        """Predictions (m,) after each round."""
        total = np.full(len(x), self.start)
        for value in self.trees.values(np.asarray(x, dtype=np.float64)):
            total = total + value[:, 0]
            yield total
