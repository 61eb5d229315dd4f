"""The scores of one fold: what each slide contributes, how much it weighs, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....store.arrays import Bools, Floats, Ints
from ....store.errors import ProtocolError
from .scores import SCORE_RULES, NamedScores, mean_of_best, mean_of_defined, median_of_defined

TOP_GENES = 50


@dataclass(frozen=True)
class FoldScore(NamedScores):
    """Scores of one fold.

    Parameters
    ----------
    scores
        By name, as `SCORE_RULES` lists them; each is an attribute too.
    slides
        The test slides in ascending order, (n_slides,).
    spots, measured_spots
        Spots of each slide, and those whose truth differs between genes, (n_slides,).
    pearson, constant_genes
        `SlideScore.pearson` and `SlideScore.constant` of each slide, (n_slides, n_genes).
    by_slide
        For each score that is a mean over slides or spots, its value on each slide, NaN where undefined, (n_slides,).
    pooled, r2_genes
        Pearson and coefficient of determination over all test spots of the fold, (n_genes,): NaN where the truth is
        constant.
    """

    scores: Mapping[str, float]
    slides: Ints
    spots: Ints
    measured_spots: Ints
    pearson: Floats
    constant_genes: Bools
    by_slide: Mapping[str, Floats]
    pooled: Floats
    r2_genes: Floats

    @property
    def slide_mean(self) -> Floats:
        """The headline of each slide: mean over genes of the within-slide Pearson, (n_slides,)."""
        return self.by_slide["pcc_slide_mean"]

    @property
    def slide_median(self) -> Floats:
        """Median over genes of the within-slide Pearson, (n_slides,)."""
        return self.by_slide["pcc_slide_median"]

    @property
    def slide_heg50(self) -> Floats:
        """`slide_mean` over the 50 genes of highest mean expression in training, (n_slides,)."""
        return self.by_slide["pcc_heg50"]

    @property
    def slide_hvg50(self) -> Floats:
        """`slide_mean` over the 50 most variable genes in training, (n_slides,)."""
        return self.by_slide["pcc_hvg50"]

    @property
    def nan_genes(self) -> int:
        """Number of (slide, gene) pairs left out because the truth is constant."""
        return int(np.isnan(self.pearson).sum())

    @property
    def nan_slides(self) -> int:
        """Number of slides left out because no gene is defined on them."""
        return int(np.isnan(self.slide_mean).sum())

    @property
    def nan_spots(self) -> int:
        """Number of spots left out of `pcc_spot` because the truth is the same for all genes."""
        return int((self.spots - self.measured_spots).sum())

    @property
    def nan_pooled_genes(self) -> int:
        """Number of genes left out of pooled scores and R2 because the truth is constant over the fold."""
        return int(np.isnan(self.pooled).sum())

    @property
    def undefined(self) -> dict[str, int]:
        """Number of slides left out of each score of `by_slide`."""
        return {name: int(np.isnan(values).sum()) for name, values in self.by_slide.items()}

    @property
    def constant(self) -> bool:
        """Whether any gene scored 0 on any slide because its prediction is constant there."""
        return bool(self.constant_genes.any())

    def weights(self, name: str) -> Floats:
        """Return how much each slide weighs in a score of `by_slide`: (n_slides,), 1 on average.

        Raises
        ------
        ProtocolError
            If the score is made over genes of the whole fold, where slides have no share.
        """
        return slide_weights(name, spots=self.spots, measured_spots=self.measured_spots)


def slide_weights(name: str, *, spots: Ints, measured_spots: Ints) -> Floats:
    """Return how much each slide weighs in a score, 1 on average, so that folds weigh by their slides, (n_slides,)."""
    over = SCORE_RULES[name].over
    if over == "genes":
        made = [one for one, rule in SCORE_RULES.items() if rule.over != "genes"]
        msg = f"{name} is made of genes over all test spots, so it has no value per slide; ask for one of {made}"
        raise ProtocolError(msg)
    if over == "slides":
        return np.ones(len(spots))
    counted = (measured_spots if name == "pcc_spot" else spots).astype(np.float64)
    return counted * (len(counted) / max(float(counted.sum()), 1.0))


def scores_of(
    by_slide: Mapping[str, Floats], pooled: Floats, r2_genes: Floats, *, spots: Ints, measured_spots: Ints
) -> dict[str, float]:
    """Return the fold's value of each score, in the order of `SCORE_RULES`."""
    over_genes = {
        "pcc_pooled": float(mean_of_defined(pooled)),
        "pcc_pooled_median": median_of_defined(pooled),
        "pcc_pooled_oracle50": mean_of_best(pooled, TOP_GENES),
        "r2": float(mean_of_defined(r2_genes)),
    }
    over_slides = {
        name: float(mean_of_defined(values, weights=slide_weights(name, spots=spots, measured_spots=measured_spots)))
        for name, values in by_slide.items()
    }
    values = over_genes | over_slides
    return {name: values[name] for name in SCORE_RULES}
