"""The scores by name: what each is a mean over, which way is better, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....store.arrays import Floats


@dataclass(frozen=True)
class ScoreRule:
    """What a score is.

    Attributes
    ----------
    over
        ``"slides"``: a mean over test slides, each weighing alike; ``"spots"``: a mean over the fold's test spots, so
        that each slide weighs by its spots; ``"genes"``: made of scores of genes over all test spots of the fold, so
        that no slide has a share of its own, nor the score an interval.
    better
        Which way is better.
    summary
        One sentence for the reader of a table.
    """

    over: Literal["slides", "spots", "genes"]
    better: Literal["high", "low"]
    summary: str


SCORE_RULES: dict[str, ScoreRule] = {
    "pcc_slide_mean": ScoreRule("slides", "high", "Pearson within each test slide, mean over genes, then over slides"),
    "pcc_slide_median": ScoreRule("slides", "high", "Median over genes of the within-slide Pearson, mean over slides"),
    "pcc_heg50": ScoreRule("slides", "high", "Like the headline, over the 50 genes of highest mean in training"),
    "pcc_hvg50": ScoreRule("slides", "high", "Like the headline, over the 50 most variable genes in training"),
    "pcc_oracle50": ScoreRule(
        "slides", "high", "Over the 50 genes best predicted on each test slide: chosen on the test truth, optimistic"
    ),
    "pcc_test_heg50": ScoreRule(
        "slides", "high", "Over the 50 genes highest in each test slide's truth, undefined as 0: chosen on test (CMRC)"
    ),
    "pcc_test_hvg50": ScoreRule(
        "slides", "high", "Over the 50 genes that vary most in each test slide's truth, undefined as 0 (CMRC)"
    ),
    "pcc_pooled": ScoreRule("genes", "high", "Pearson over all test spots of a fold, slides mixed, mean over genes"),
    "pcc_pooled_median": ScoreRule("genes", "high", "Pearson over all test spots of a fold, median over genes"),
    "pcc_pooled_oracle50": ScoreRule(
        "genes", "high", "Over the 50 genes of best pooled Pearson on test: chosen on the test truth (NH2ST)"
    ),
    "pcc_spot": ScoreRule("spots", "high", "Pearson over genes within each spot, mean over spots (M2ORT)"),
    "rmse_spot": ScoreRule("spots", "low", "Root mean squared error over genes of each spot, mean over spots (M2ORT)"),
    "mse": ScoreRule("spots", "low", "Mean squared error over spots and genes, slide offset included"),
    "mae": ScoreRule("spots", "low", "Mean absolute error over spots and genes, slide offset included"),
    "r2": ScoreRule("genes", "high", "1 - squared error / variance over all test spots of a fold, mean over genes"),
    "rvd": ScoreRule(
        "slides", "low", "((predicted - true variance) / true variance)^2 within each slide, mean over genes (Stem)"
    ),
    "gene_correlation": ScoreRule(
        "slides",
        "high",
        "Pearson between predicted and true gene-gene correlations within each slide, mean over slides",
    ),
    "morans_i_pcc": ScoreRule(
        "slides", "high", "Pearson over genes between Moran's I of prediction and truth within each slide"
    ),
    "morans_i_mae": ScoreRule(
        "slides", "low", "Mean over genes of the absolute difference in Moran's I of prediction and truth"
    ),
}


def _named(name: str) -> property:
    """Return a score as an attribute."""

    def value(self: NamedScores) -> float:
        return self.scores[name]

    return property(value, doc=SCORE_RULES[name].summary)


class NamedScores:
    """Scores by name, each also an attribute; NaN where a score is undefined everywhere.

    Attributes
    ----------
    scores
        One value for each name of `SCORE_RULES`.
    """

    scores: Mapping[str, float]

    pcc_slide_mean = _named("pcc_slide_mean")
    pcc_slide_median = _named("pcc_slide_median")
    pcc_heg50 = _named("pcc_heg50")
    pcc_hvg50 = _named("pcc_hvg50")
    pcc_oracle50 = _named("pcc_oracle50")
    pcc_test_heg50 = _named("pcc_test_heg50")
    pcc_test_hvg50 = _named("pcc_test_hvg50")
    pcc_pooled = _named("pcc_pooled")
    pcc_pooled_median = _named("pcc_pooled_median")
    pcc_pooled_oracle50 = _named("pcc_pooled_oracle50")
    pcc_spot = _named("pcc_spot")
    rmse_spot = _named("rmse_spot")
    mse = _named("mse")
    mae = _named("mae")
    r2 = _named("r2")
    rvd = _named("rvd")
    gene_correlation = _named("gene_correlation")
    morans_i_pcc = _named("morans_i_pcc")
    morans_i_mae = _named("morans_i_mae")


def mean_of_defined(values: Floats, *, weights: Floats | None = None) -> Floats:
    """Return the mean over the last axis of what is not NaN, NaN where nothing is or weighs.

    Parameters
    ----------
    values
        Shape (..., n).
    weights
        Not negative, (n,); all alike where None.
    """
    defined = ~np.isnan(values)
    share = defined if weights is None else np.where(defined, weights, 0.0)
    weight = share.sum(axis=-1)
    total = np.where(defined, values if weights is None else values * weights, 0.0).sum(axis=-1)
    mean: Floats = np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0)
    return mean


def median_of_defined(values: Floats) -> float:
    """Return the median of what is not NaN, (n,), NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if len(defined) else float("nan")


def mean_of_best(values: Floats, size: int) -> float:
    """Return the mean of the `size` highest of the values that are not NaN, (n,), or of all where they are fewer."""
    best = np.sort(values[~np.isnan(values)])[-size:]
    return float(best.mean()) if len(best) else float("nan")
