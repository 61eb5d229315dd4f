"""Ridge regression: the anchor that neural heads must beat."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..store.arrays import Floats, Ints
from ..store.table import Table
from .closed_form import RidgePath, ridge_path
from .contract import training_arrays
from .inner import choose, inner_folds


class Ridge:
    """Closed-form ridge on all views side by side.

    Parameters
    ----------
    alpha
        Penalty. None chooses among ten, logarithmic from 0.01 to 100 times the number of features, on inner folds;
        with too few training slides for these, the number of features is taken.

    Attributes
    ----------
    alpha_
        Penalty in use.
    chosen_
        alpha, the rule that chose it, and the inner score of every candidate.
    """

    def __init__(self, *, alpha: float | None = None) -> None:
        self.alpha = alpha

    def fit(self, table: Table) -> Self:
        """Learn from a prepared table."""
        y, weights = training_arrays(table)
        x = table.features()
        self.alpha_, self.chosen_ = choose_alpha(x, y, weights, table=table, alpha=self.alpha)
        self.path_: RidgePath = ridge_path(x, y, weights)
        self.n_parameters_ = (x.shape[1] + 1) * y.shape[1]
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.path_.predict(table.features(), (self.alpha_,))[0].astype(np.float32)


def choose_alpha(
    x: Floats, y: Floats, weights: Floats, *, table: Table, alpha: float | None = None
) -> tuple[float, dict[str, Any]]:
    """Choose the penalty on inner folds of a training table.

    Parameters
    ----------
    x, y, weights
        (n, d), (n, g), (n,) of the table's rows.
    alpha
        A value to take as it is.

    Returns
    -------
    tuple
        The penalty, and how it was chosen.
    """
    if alpha is not None:
        return alpha, {"alpha": alpha, "selection": "given"}
    dim = x.shape[1]
    rule, folds = inner_folds(table)
    if rule == "fixed":
        return float(dim), {"alpha": float(dim), "selection": "fixed"}
    alphas = tuple(float(a) for a in dim * np.logspace(-2, 2, 10))

    def predict(train: Ints, held: Ints) -> list[Floats]:
        return ridge_path(x[train], y[train], weights[train]).predict(x[held], alphas)

    best, scores = choose(alphas, folds, truth=y, slide=table.slide, predict=predict)
    return best, {"alpha": best, "selection": rule, "inner_scores": dict(zip(map(str, alphas), scores, strict=True))}
