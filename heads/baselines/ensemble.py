"""A stacked ensemble: heads weighed by what they predict for slides that they were not fitted on."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError
from ...store.files.column import FeatureColumn
from ...store.table import Table
from ..contract import Head, reads_tokens, training_arrays
from ..engine.anchor import cross_fit_groups
from ..engine.selection import MOST_INNER_FOLDS
from ..protocols.inner import mean_within_slide
from ..protocols.targets import slide_mean

DEFAULT_MEMBERS = "ridge+knn+mlp:epochs=10;members=1+triplex:epochs=10;members=1"
SHRINKAGE = 10.0


class Ensemble:
    """Members are cross-fitted on inner folds, weighed by non-negative least squares, and fitted anew on all rows.

    Held-out predictions come from at most three folds of patients (of slides, then of quarters of slides, where
    patients are too few), so that no member is weighed by what it has seen. Weights minimise the squared error of
    slide-centred targets, rows weighted as in training and genes standardised; they are not made to sum to one, so that
    an ensemble of weak members stays small. With `per_gene` every gene has weights of its own, pulled towards the
    shared ones.

    Source: stacked regressions with non-negative weights, Breiman, Machine Learning 24, 1996.

    Cost: every member is fitted once for each fold and once on all rows, so up to four times the members' own; each
    chooses its own penalty, k or epochs inside the rows that it sees. The networks among the default members have their
    epochs fixed, which is a tenth of the work of choosing them.

    Parameters
    ----------
    members
        Heads by name with options, joined by "+": "ridge+knn", or "ridge+mlp:anchor=ridge;epochs=5". Options are read
        as JSON where they can be.
    per_gene
        Whether every gene has weights of its own.
    shrinkage
        How strongly these are pulled towards the shared ones, in units of a member's mean squared prediction times the
        number of held-out slides; 0 leaves every gene alone.
    seed
        Of members that take one.

    Attributes
    ----------
    weights_
        (n_members,) shared, or (n_members, g).
    members_
        Fitted members.
    chosen_
        Weights and inner score of every member, and of the ensemble.
    """

    def __init__(
        self, *, members: str = DEFAULT_MEMBERS, per_gene: bool = False, shrinkage: float = SHRINKAGE, seed: int = 0
    ) -> None:
        self.members, self.per_gene, self.shrinkage, self.seed = members, per_gene, shrinkage, seed

    def fit(self, table: Table) -> Self:
        """Cross-fit, weigh, and fit on all rows.

        Raises
        ------
        HeadError
            If a member does not exist, is itself an ensemble, or lacks its input.
        """
        whole_y, row_weights = training_arrays(table)
        # Weights of deviations do not sum to one: a level that is part of the targets must not pass through them.
        self.level_ = slide_mean(whole_y, table.slide)[1].mean(axis=0)  # (g,); 0 where the protocol centres
        y = (whole_y - self.level_).astype(np.float32)
        table = replace(table, targets=y)
        names = self.members.split("+")
        self._made(names)  # options are checked before anything is trained
        rule, folds = cross_folds(table)
        held = np.concatenate([rows for _, rows in folds])
        predicted = np.stack(  # (n_members, m, g)
            [self._held_out(name, table, folds) for name in names]
        ).astype(np.float64)
        truth, weight, slide = y[held].astype(np.float64), row_weights[held].astype(np.float64), table.slide[held]
        self.weights_ = shared_weights(predicted, truth, weight, slide)
        if self.per_gene:
            self.weights_ = gene_weights(
                predicted, truth, weight, slide, shared=self.weights_, shrinkage=self.shrinkage
            )
        whole = combined(predicted, self.weights_)
        scores = [mean_within_slide(one, truth, slide) for one in (*predicted, whole)]
        self.chosen_: dict[str, Any] = {
            "cross_fit": rule,
            "weights": dict(zip(names, np.atleast_2d(self.weights_.T).mean(0).tolist(), strict=True)),
            "inner_scores": dict(zip((*names, "ensemble"), scores, strict=True)),
        }
        self.members_ = [head.fit(table) for head in self._made(names)]
        self.n_parameters_ = sum(int(getattr(head, "n_parameters_", 0)) for head in self.members_)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel), the weighted sum of the members."""
        predicted = np.stack([head.predict(table) for head in self.members_]).astype(np.float64)
        return np.asarray(self.level_ + combined(predicted, self.weights_), dtype=np.float32)

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Features that members see: those of the table, and the tokens of members that read tokens."""
        own: list[Any] = getattr(self, "members_", [])
        found = [*table.columns.values(), *(c for head in own if hasattr(head, "columns") for c in head.columns(table))]
        return tuple({column.key: column for column in found}.values())

    @property
    def reads_tokens(self) -> bool:
        """Whether a member does."""
        return any(map(reads_tokens, self._made(self.members.split("+"))))

    @property
    def context_um(self) -> float | None:
        """The widest of the members' (see `NeuralHead.context_um`); None where one looks at whole slides."""
        found = [getattr(head, "context_um", 0.0) for head in getattr(self, "members_", [])]
        return None if None in found else max(found, default=0.0)

    def _made(self, names: Sequence[str]) -> list[Head]:
        return [make_member(name, seed=self.seed) for name in names]

    def _held_out(self, name: str, table: Table, folds: Sequence[tuple[Ints, Ints]]) -> Floats:
        """Predictions (m, g) of one member for the held-out rows of every fold, in their order."""
        parts = []
        for train, held in folds:
            head = make_member(name, seed=self.seed).fit(part_of(table, train))
            bare = replace(part_of(table, held), targets=None, weights=None, depth=None)
            found = np.empty((len(held), len(table.panel)), dtype=np.float32)
            found[np.argsort(table.slide[held], kind="stable")] = head.predict(bare)
            parts.append(found)
        return np.concatenate(parts)


def part_of(table: Table, rows: Ints) -> Table:
    """Some rows as a table of their own, slides that have none left out; rows of a slide keep their order."""
    slides = np.unique(table.slide[rows])
    return table.select_rows(rows).select_slides(slides.tolist())


def make_member(text: str, *, seed: int) -> Head:
    """A head from "name" or "name:option=value;option=value", seeded where it takes a seed.

    Raises
    ------
    HeadError
        If there is no such head or option, or it is an ensemble or a control.
    """
    from ..registry import HEADS, make_head

    name, _, given = text.partition(":")
    options: dict[str, Any] = {}
    for part in given.split(";") if given else ():
        option, equals, value = part.partition("=")
        options |= {option: _value(value)} if equals else {"mode": option}
    if name == "ensemble" or (name in HEADS and (HEADS[name].control or HEADS[name].diagnostic)):
        msg = f"{name} cannot be a member of an ensemble: take heads that compete, such as {DEFAULT_MEMBERS}"
        raise HeadError(msg)
    if "seed" in inspect.signature(type(make_head(name))).parameters:
        options.setdefault("seed", seed)
    return make_head(name, **options)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def cross_folds(table: Table) -> tuple[str, tuple[tuple[Ints, Ints], ...]]:
    """What is held out ("patients", "slides", "blocks"), and rows (train, held out) of at most three folds."""
    every = np.arange(len(table))
    rule, group = cross_fit_groups(table, every)
    fold = group % MOST_INNER_FOLDS
    return rule, tuple((every[fold != one], every[fold == one]) for one in np.unique(fold))


def shared_weights(predicted: Floats, truth: Floats, weight: Floats, slide: Ints) -> Floats:
    """Non-negative weights (n_members,) of least squares over all genes.

    Parameters
    ----------
    predicted
        (n_members, m, g) of held-out rows.
    truth, weight, slide
        (m, g), (m,), (m,).
    """
    gram, cross = _moments(predicted, truth, weight, slide)
    return solve(gram.sum(0), cross.sum(0))


def gene_weights(
    predicted: Floats, truth: Floats, weight: Floats, slide: Ints, *, shared: Floats, shrinkage: float
) -> Floats:
    """Non-negative weights (n_members, g): each gene's least squares plus a penalty on the distance from the shared."""
    gram, cross = _moments(predicted, truth, weight, slide)
    size = shrinkage * np.trace(gram.mean(0)) / len(gram[0]) / max(len(np.unique(slide)), 1)
    pulled = size * np.eye(len(shared))
    return np.stack([solve(a + pulled, b + size * shared) for a, b in zip(gram, cross, strict=True)], axis=1)


def solve(gram: Floats, cross: Floats) -> Floats:
    """The w >= 0 of least w' A w - 2 w' b, by scipy's `nnls` on a square root of A (n, n) and b (n,)."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-12
    if not kept.any() or values[-1] <= 0:
        return np.zeros(len(cross))
    root = np.sqrt(values[kept])
    return np.asarray(nnls(root[:, None] * vectors[:, kept].T, (vectors[:, kept].T @ cross) / root)[0])


def combined(predicted: Floats, weights: Floats) -> Floats:
    """Weighted sum (m, g) of predictions (n_members, m, g)."""
    by_gene = weights if weights.ndim == 2 else weights[:, None]
    return np.asarray(np.einsum("hmg,hg->mg", predicted, np.broadcast_to(by_gene, predicted.shape[::2])))


def _moments(predicted: Floats, truth: Floats, weight: Floats, slide: Ints) -> tuple[Floats, Floats]:
    """Products of members (g, n, n), and with the targets (g, n), about slide means, genes of unit variance."""
    w = weight / weight.sum()
    member = (slide[None] == np.unique(slide)[:, None]) * w  # (s, m)
    member /= np.maximum(member.sum(1, keepdims=True), 1e-12)
    number = np.unique(slide, return_inverse=True)[1]
    y = truth - (member @ truth)[number]
    x = predicted - np.einsum("sm,hmg->hsg", member, predicted)[:, number]
    spread = np.sqrt(np.maximum(w @ y**2, 1e-12))  # (g,)
    x, y = x / spread, y / spread
    weighted = x * w[:, None]
    return np.einsum("amg,bmg->gab", weighted, x, optimize=True), np.einsum("amg,mg->ga", weighted, y, optimize=True)
