"""The scores of one fold: gene-wise Pearson within each test slide and over the fold, squared and absolute error.

Three rules decide what an undefined correlation counts as (a column is constant within `moments.CONSTANT_RTOL`):

- the truth of a gene is constant on a slide: the gene is left out there and counted in `nan_genes`, for every head
  alike, whatever the head predicts;
- else the prediction is constant: the gene scores 0 there, and `constant` is set;
- no gene is left on a slide: the slide's score is NaN, and it is left out of the mean and counted in `nan_slides`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import HeadError, ProtocolError
from .moments import Moments, merged, moments


@dataclass(frozen=True)
class SlideScore:
    """Scores of one slide.

    Parameters
    ----------
    pearson
        Per gene: NaN where the truth is constant, else 0 where the prediction is, (n_genes,).
    constant
        Genes that score 0 because the prediction is constant, (n_genes,).
    """

    pearson: Floats
    constant: Bools


@dataclass(frozen=True)
class FoldScore:
    """Scores of one fold.

    Parameters
    ----------
    slides
        The test slides in ascending order, (n_slides,).
    pearson, constant_genes
        `SlideScore.pearson` and `SlideScore.constant` of each slide, (n_slides, n_genes).
    slide_mean, slide_median, slide_heg50, slide_hvg50
        Mean and median over genes, and means over the two gene lists, NaN where no gene is defined, (n_slides,).
    pooled
        Pearson over all test spots of the fold, by the same rules, (n_genes,).
    mse, mae
        Mean squared and absolute error over spots and genes, on uncentred targets.
    """

    slides: Ints
    pearson: Floats
    constant_genes: Bools
    slide_mean: Floats
    slide_median: Floats
    slide_heg50: Floats
    slide_hvg50: Floats
    pooled: Floats
    mse: float
    mae: float

    @property
    def pcc_slide_mean(self) -> float:
        """Mean over test slides of the mean over genes: the headline."""
        return float(mean_of_defined(self.slide_mean))

    @property
    def pcc_slide_median(self) -> float:
        """Mean over test slides of the median over genes."""
        return float(mean_of_defined(self.slide_median))

    @property
    def pcc_pooled(self) -> float:
        """Mean over genes of the Pearson over all test spots."""
        return float(mean_of_defined(self.pooled))

    @property
    def pcc_heg50(self) -> float:
        """`pcc_slide_mean` over the 50 genes of highest mean expression in training."""
        return float(mean_of_defined(self.slide_heg50))

    @property
    def pcc_hvg50(self) -> float:
        """`pcc_slide_mean` over the 50 most variable genes in training."""
        return float(mean_of_defined(self.slide_hvg50))

    @property
    def nan_genes(self) -> int:
        """Number of (slide, gene) pairs left out because the truth is constant."""
        return int(np.isnan(self.pearson).sum())

    @property
    def nan_slides(self) -> int:
        """Number of slides left out because no gene is defined on them."""
        return int(np.isnan(self.slide_mean).sum())

    @property
    def constant(self) -> bool:
        """Whether any gene scored 0 on any slide because its prediction is constant there."""
        return bool(self.constant_genes.any())


def pearson_columns(prediction: Floats, truth: Floats) -> Floats:
    """Return the Pearson correlation of each pair of columns.

    Parameters
    ----------
    prediction, truth
        Shape (n_spots, n_genes), any float type.

    Returns
    -------
    ndarray
        float64 (n_genes,), NaN where either column is constant or holds NaN.
    """
    _check_shapes(prediction, truth)
    return moments(prediction, truth).pearson()


def score_slide(prediction: Floats, truth: Floats) -> SlideScore:
    """Return the scores of one slide's predictions.

    Parameters
    ----------
    prediction, truth
        Shape (n_spots, n_genes).

    Raises
    ------
    HeadError
        Where the prediction is not finite or has another shape than the truth.
    ProtocolError
        Where the truth is not finite.
    """
    _check_shapes(prediction, truth)
    return _scored(_finite(moments(prediction, truth), where="the slide"))


def score_fold(prediction: Floats, truth: Floats, *, slide: Ints, heg50: Ints, hvg50: Ints) -> FoldScore:
    """Return the scores of one fold.

    Parameters
    ----------
    prediction, truth
        Uncentred targets, slide offset included, (n_spots, n_genes).
    slide
        Slide of each test spot, (n_spots,).
    heg50, hvg50
        Gene positions of the 50 most expressed and the 50 most variable genes, ranked on training slides.

    Raises
    ------
    HeadError
        Where the prediction is not finite or has another shape than the truth.
    ProtocolError
        Where the truth is not finite, there is no spot, or `slide` has another length.
    """
    _check_shapes(prediction, truth)
    if len(slide) != len(truth) or not len(slide):
        msg = f"{len(truth)} test spots came with {len(slide)} slide labels; give one label per spot, one at least."
        raise ProtocolError(msg)
    slides = np.unique(slide)
    parts = [
        _finite(moments(prediction, truth, rows=np.flatnonzero(slide == one)), where=f"test slide {one}")
        for one in slides
    ]
    scores = [_scored(part) for part in parts]
    pearson = np.stack([score.pearson for score in scores])  # (n_slides, n_genes)
    whole = merged(parts)
    return FoldScore(
        slides=slides,
        pearson=pearson,
        constant_genes=np.stack([score.constant for score in scores]),
        slide_mean=mean_of_defined(pearson),
        slide_median=_median_of_defined(pearson),
        slide_heg50=mean_of_defined(pearson[:, heg50]),
        slide_hvg50=mean_of_defined(pearson[:, hvg50]),
        pooled=_scored(whole).pearson,
        mse=float(whole.squared_error.mean() / whole.n),
        mae=float(whole.absolute_error.mean() / whole.n),
    )


def mean_of_defined(values: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN, NaN where nothing is; callers count what they drop."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _median_of_defined(values: Floats) -> Floats:
    rows = [row[~np.isnan(row)] for row in values]
    return np.array([np.median(row) if len(row) else np.nan for row in rows])


def _scored(part: Moments) -> SlideScore:
    """Apply the rules for constant columns."""
    pearson = part.pearson()
    constant = part.constant_prediction & ~part.constant_truth
    pearson[constant] = 0.0
    return SlideScore(pearson=pearson, constant=constant)


def _check_shapes(prediction: Floats, truth: Floats) -> None:
    if prediction.shape != truth.shape or truth.ndim != 2:
        msg = (
            f"A prediction of shape {prediction.shape} came for a truth of shape {truth.shape}; both must be "
            "(n_spots, n_genes) for the same spots and genes."
        )
        raise HeadError(msg)


def _finite(part: Moments, *, where: str) -> Moments:
    """Refuse NaN and infinity, which would otherwise pass as constant columns and be left out."""
    broken = ~np.isfinite(part.mean_prediction + part.ss_prediction)
    if broken.any():
        msg = (
            f"The prediction of {where} holds NaN or infinite values for {int(broken.sum())} of {len(broken)} genes; "
            "a head must predict finite numbers. Check its learning rate and its input features."
        )
        raise HeadError(msg)
    broken = ~np.isfinite(part.mean_truth + part.ss_truth)
    if broken.any():
        msg = (
            f"The truth of {where} holds NaN or infinite values for {int(broken.sum())} of {len(broken)} genes; "
            "leave spots without counts out, or check the counts."
        )
        raise ProtocolError(msg)
    return part
