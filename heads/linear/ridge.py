"""Ridge regression: the anchor that neural heads must beat."""

from __future__ import annotations

import hashlib
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError
from ...store.table import Table
from ..contract import training_arrays, with_views
from ..protocols.inner import choose, inner_folds
from .closed_form import CoMoments, RidgePath, Spectrum, comoments, decompose, pooled
from .hest_probe import HestProbe

MOST_BYTES = 2 << 30
"""Of scatter matrices and decompositions that are kept; beyond it each is made when it is asked for."""


class RidgeDesign:
    """Features and weights of training rows, in the groups that inner selection holds out one by one.

    The scatter matrix of every group is computed once, in float64; a fold's is the sum of those of its groups. Every
    decomposition is made once and serves all penalties and all targets. Where a fold has fewer rows than features,
    its rows are decomposed instead. Coefficients agree with scikit-learn's `Ridge(solver="svd")` on the fold's rows
    to 1e-9 of their size for penalties from 0.01 times the number of features.

    Parameters
    ----------
    x
        (n, d) features. They are kept and must not be changed.
    weights
        (n,) non-negative.
    group
        (n,) number of the group of each row, from 0 on.
    """

    def __init__(self, x: NDArray[np.float32], weights: Floats, group: Ints) -> None:
        self.x, self.group = x, group
        self._weights = torch.from_numpy(np.asarray(weights, dtype=np.float64))
        self._groups = [np.flatnonzero(group == one) for one in range(int(group.max()) + 1)]
        self._scatters: list[CoMoments] = []
        self._spectra: dict[int | None, Spectrum] = {}

    @property
    def n_groups(self) -> int:
        """Groups of rows; 1 where there is no inner selection."""
        return len(self._groups)

    def cross(self, y: Floats) -> tuple[CoMoments, ...]:
        """Products of features and targets (n, g), by group."""
        ys = torch.from_numpy(np.asarray(y, dtype=np.float64))
        return tuple(comoments(self._x(rows), ys[rows], self._weights[rows]) for rows in self._groups)

    def path(self, cross: tuple[CoMoments, ...], *, without: int | None = None, pca: int | None = None) -> RidgePath:
        """Ridge on all rows, or without those of one group.

        Parameters
        ----------
        cross
            Of `cross`.
        without
            The group that is left out.
        pca
            Number of principal components of the weighted rows trained on; all features where None.

        Raises
        ------
        HeadError
            If the rows weigh nothing, or span fewer dimensions.
        """
        moments = pooled([cross[one] for one in self._kept(without)])
        return self.spectrum(without).leading(pca).path(moments)

    def spectrum(self, without: int | None = None) -> Spectrum:
        """The decomposition of all rows, or without those of one group."""
        if without not in self._spectra:
            spectrum = self._decompose(without)
            if not self._small:
                return spectrum
            self._spectra[without] = spectrum
        return self._spectra[without]

    def held_out(self, cross: tuple[CoMoments, ...], alpha: float) -> Floats:
        """Predictions (n, g) of every row by the ridge that is fitted without the row's group."""
        out = np.empty((len(self.x), len(cross[0].y_mean)))
        for one, rows in enumerate(self._groups):
            out[rows] = self.path(cross, without=one).predict(self.x[rows], (alpha,))[0]
        return out

    def _decompose(self, without: int | None) -> Spectrum:
        kept = self._kept(without)
        rows = np.concatenate([self._groups[one] for one in kept])
        if len(rows) < self.x.shape[1] or not self._small:
            return decompose(self._x(rows), self._weights[rows])
        if not self._scatters:
            for group in self._groups:
                x = self._x(group)
                self._scatters.append(comoments(x, x, self._weights[group]))
        return Spectrum.primal(pooled([self._scatters[one] for one in kept]).products)

    @property
    def _small(self) -> bool:
        return (2 * self.n_groups + 1) * int(self.x.shape[1]) ** 2 * 8 <= MOST_BYTES

    def _kept(self, without: int | None) -> list[int]:
        return [one for one in range(self.n_groups) if one != without]

    def _x(self, rows: Ints) -> Tensor:
        return torch.from_numpy(self.x[rows].astype(np.float64))


_latest: tuple[bytes, RidgeDesign] | None = None


def design_of(table: Table) -> RidgeDesign:
    """The design of a training table: the latest one again, if features, weights and groups are the same numbers.

    `ridge`, `shuffled` and `predicted-depth` on one fold differ only in their targets. They are told to be alike by a
    digest of the numbers themselves, so that no change of a table can bring back another table's design.

    Raises
    ------
    HeadError
        If the table was not prepared for training.
    """
    global _latest
    weights = training_arrays(table)[1]
    x, group = table.features(), inner_groups(table)
    x.setflags(write=False)
    digest = hashlib.blake2b(f"{x.shape}".encode())
    for part in (x, weights, group):
        digest.update(np.ascontiguousarray(part).data)
    latest = _latest
    if latest is None or latest[0] != digest.digest():
        latest = _latest = (digest.digest(), RidgeDesign(x, weights.copy(), group))
    return latest[1]


def forget_design() -> None:
    """Free the memory of the latest design."""
    global _latest
    _latest = None


def inner_groups(table: Table) -> NDArray[np.int64]:
    """Group of inner selection of each row, (n,); all 0 where there are too few slides for it."""
    group = np.zeros(len(table), dtype=np.int64)
    for number, (_, held) in enumerate(inner_folds(table)[1]):
        group[held] = number
    return group


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
