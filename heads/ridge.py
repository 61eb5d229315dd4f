"""Ridge regression: the anchor that neural heads must beat."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..store.arrays import Floats, Ints
from ..store.errors import HeadError
from ..store.table import Table
from .closed_form import RidgePath
from .comoments import CoMoments
from .contract import training_arrays, with_views
from .hest_probe import HestProbe
from .inner import choose, inner_folds
from .ridge_design import RidgeDesign, design_of

RELATIVE_ALPHAS = tuple(float(a) for a in np.logspace(-2, 2, 10))
"""Candidates for the penalty, as multiples of the number of features."""


class Ridge:
    """Closed-form ridge on all views side by side.

    The Gram matrix of every patient is computed once, each inner fold is decomposed once for all penalties, and heads
    on the same features and weights share the decompositions. Cost: one eigendecomposition of min(n, d) dimensions per
    inner fold and one of all rows; about six core-seconds for 13,600 spots x 1,024 features and seven inner folds.

    Parameters
    ----------
    alpha
        Penalty. None chooses among ten, logarithmic from 0.01 to 100 times the number of features, on inner folds;
        with too few training slides for these, the number of features is taken.
    pca
        Number of principal components of the weighted training rows to regress on; None takes the features as they
        are. Every inner fold has components of its own rows. The penalty is still counted in features, because
        components keep the variance of the features they are made of.
    mode
        "default", or "hest": the probe of HEST-Benchmark (`HestProbe`), whose penalty is fixed and which knows no
        weights; there `pca` is its StandardScaler and PCA, and None regresses on the features as they come.
    seed
        Of the randomised PCA of mode "hest"; the default mode draws nothing.

    Attributes
    ----------
    alpha_
        Penalty in use.
    chosen_
        alpha, the rule that chose it, and the inner score of every candidate.
    """

    def __init__(
        self,
        *,
        alpha: float | None = None,
        pca: int | None = None,
        mode: str = "default",
        seed: int = 0,
    ) -> None:
        self.alpha, self.pca, self.mode, self.seed = alpha, pca, mode, seed

    def fit(self, table: Table) -> Self:
        """Learn from a prepared table.

        Raises
        ------
        HeadError
            If the mode does not exist, or the training rows do not span `pca` dimensions.
        """
        self.views_ = tuple(table.columns)
        if self.mode == "hest":
            return self._fit_probe(table)
        if self.mode != "default":
            msg = f"ridge has no mode {self.mode!r}: choose default or hest"
            raise HeadError(msg)
        y, _ = training_arrays(table)
        design = design_of(table)
        cross = design.cross(y)
        self.alpha_, self.chosen_ = choose_alpha(design, cross, y, table=table, alpha=self.alpha, pca=self.pca)
        self.model_: HestProbe | RidgePath = design.path(cross, pca=self.pca)
        self.n_parameters_ = ((self.pca or design.x.shape[1]) + 1) * y.shape[1]
        return self

    def _fit_probe(self, table: Table) -> Self:
        y, _ = training_arrays(table)
        self.model_ = HestProbe.fit(table.features(), y, pca=self.pca, alpha=self.alpha, seed=self.seed)
        self.alpha_ = self.model_.alpha
        self.chosen_ = {"alpha": self.alpha_, "selection": "fixed" if self.alpha is None else "given"}
        self.n_parameters_ = self.model_.n_parameters
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        x = with_views(table, self.views_).features()
        if isinstance(self.model_, HestProbe):
            return self.model_.predict(x)
        return self.model_.predict(x, (self.alpha_,))[0].astype(np.float32)


def choose_alpha(
    design: RidgeDesign,
    cross: tuple[CoMoments, ...],
    y: Floats,
    *,
    table: Table,
    alpha: float | None = None,
    pca: int | None = None,
) -> tuple[float, dict[str, Any]]:
    """Choose the penalty on inner folds of a training table.

    Parameters
    ----------
    design
        Of the table's rows, grouped as `inner_folds` holds them out.
    cross
        Its products with the targets.
    y
        (n, g) targets.
    alpha
        A value to take as it is.

    Returns
    -------
    tuple
        The penalty, and how it was chosen.
    """
    if alpha is not None:
        return alpha, {"alpha": alpha, "selection": "given"}
    dim = design.x.shape[1]
    rule, folds = inner_folds(table)
    if rule == "fixed":
        return float(dim), {"alpha": float(dim), "selection": "fixed"}
    alphas = tuple(dim * relative for relative in RELATIVE_ALPHAS)

    def predict(train: Ints, held: Ints) -> list[Floats]:
        without = int(design.group[held[0]])
        return design.path(cross, without=without, pca=pca).single().predict(design.x[held], alphas)

    best, scores = choose(alphas, folds, truth=y, slide=table.slide, predict=predict)
    return best, {"alpha": best, "selection": rule, "inner_scores": dict(zip(map(str, alphas), scores, strict=True))}
