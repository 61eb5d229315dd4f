"""The scores of predictions against truth: of one slide, and of one fold.

Rules decide what an undefined value counts as (a column is constant within `moments.CONSTANT_RTOL`):

- the truth of a gene is constant on a slide: the gene is left out there and counted in `nan_genes`, for every head
  alike, whatever the head predicts;
- else the prediction is constant: the gene scores 0 there, and `constant` is set; its correlations with other genes
  and its Moran's I count as 0;
- no gene is left on a slide: the slide's score is NaN, and it is left out of the mean and counted in `nan_slides`;
- the same holds for spots over genes (`nan_spots`) and for genes over the fold (`nan_pooled_genes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....store.arrays import Bools, Floats, Ints
from ....store.errors import HeadError, ProtocolError
from .fold_score import TOP_GENES, FoldScore, scores_of
from .moments import AGREEMENT_RTOL, BLOCK_ELEMENTS, Moments, is_constant, merged, moments
from .morans import morans_i_agreement, spatial_weights
from .scores import mean_of_best, mean_of_defined, median_of_defined


@dataclass(frozen=True)
class Spotwise:
    """Scores of each spot.

    Parameters
    ----------
    pearson
        Over genes: NaN where the truth is the same for all genes, else 0 where the prediction is, (n_spots,).
    rmse
        Root of the mean squared error over genes, (n_spots,).
    """

    pearson: Floats
    rmse: Floats


def spotwise(prediction: Floats, truth: Floats) -> Spotwise:
    """Return the scores of each spot.

    Parameters
    ----------
    prediction, truth
        Shape (n_spots, n_genes), any float type; read in blocks, so they may be memory-mapped.

    References
    ----------
    M2ORT's `utils.py`. Equation 2 of the M2OST paper lacks the root of the error; its code has it.
    """
    n, g = truth.shape
    step = max(1, min(n, BLOCK_ELEMENTS // max(1, g)))
    # One work space for all blocks: fresh memory of this size costs more than the arithmetic in it.
    work = np.empty((3, step, g))
    pearson, rmse = np.full(n, np.nan), np.full(n, np.nan)
    for start in range(0, n, step):
        at = slice(start, min(start + step, n))
        p, t, error = work[:, : at.stop - at.start]  # (n_block, n_genes) each
        p[...], t[...] = prediction[at], truth[at]
        np.subtract(p, t, out=error)
        rmse[at] = np.sqrt(_products(error, error) / max(g, 1))
        pearson[at] = _pearson(p, t)
    return Spotwise(pearson, rmse)


def _pearson(p: Floats, t: Floats) -> Floats:
    """Pearson of each row, by the rules for constants; both arrays are overwritten."""
    g = p.shape[1]
    mean_p, mean_t = p.sum(axis=1) / max(g, 1), t.sum(axis=1) / max(g, 1)
    p -= mean_p[:, None]
    t -= mean_t[:, None]
    ss_p, ss_t = _products(p, p), _products(t, t)
    still_p, still_t = is_constant(g, mean_p, ss_p), is_constant(g, mean_t, ss_t)
    found = np.where(still_t, np.nan, 0.0)
    np.divide(_products(p, t), np.sqrt(ss_p) * np.sqrt(ss_t), out=found, where=~(still_p | still_t))
    clipped: Floats = np.clip(found, -1.0, 1.0)
    return clipped


def _products(a: Floats, b: Floats) -> Floats:
    """Sum over genes of a * b, (n_spots,)."""
    total: Floats = np.einsum("ij,ij->i", a, b)
    return total


# 64 MB of float64 a block of spots: enough for the matrix product to run at full speed, at any number of genes.
GRAM_ELEMENTS = 1 << 23


def gene_correlation_agreement(prediction: Floats, truth: Floats, part: Moments) -> float:
    """Return the Pearson between the upper triangles of the gene-gene correlations of prediction and truth.

    Genes whose truth is constant are left out. A gene whose prediction is constant is correlated with none: its
    correlations count as 0. Undefined, NaN, with fewer than three genes; 0 where all predicted correlations are equal.

    Parameters
    ----------
    prediction, truth
        One slide, (n_spots, n_genes), any float type.
    part
        Their `moments`.

    Notes
    -----
    The definition is this project's: papers that claim to keep gene-gene correlations publish no code for it. Time
    grows with n_spots * n_genes^2; memory with two float64 arrays of n_genes^2.
    """
    genes = np.flatnonzero(~part.constant_truth)
    if len(genes) < 3:
        return float("nan")
    still = part.constant_prediction[genes]
    predicted = _correlations(prediction, genes, mean=part.mean_prediction, ss=part.ss_prediction, still=still)
    true = _correlations(truth, genes, mean=part.mean_truth, ss=part.ss_truth, still=np.zeros_like(still))
    return float(_upper_moments(predicted, true).scored_pearson(rtol=AGREEMENT_RTOL)[0])


def _correlations(values: Floats, genes: Ints, *, mean: Floats, ss: Floats, still: Bools) -> NDArray[np.float64]:
    """Correlations of some columns, upper triangle only, (n_genes, n_genes) in Fortran's order; 0 for those still."""
    from scipy.linalg.blas import dsyrk

    scale = np.zeros(len(genes))
    np.divide(1.0, np.sqrt(ss[genes]), out=scale, where=~still)
    every = len(genes) == values.shape[1]
    step = max(1, GRAM_ELEMENTS // len(genes))
    gram: Any = np.zeros((len(genes), len(genes)), order="F")
    for start in range(0, len(values), step):
        rows = values[start : start + step]
        z = np.array(rows if every else rows[:, genes], dtype=np.float64, order="C")
        z -= mean[genes]
        z *= scale
        gram = dsyrk(1.0, z.T, beta=1.0, c=gram, overwrite_c=True)  # one triangle: half the work of a product
    correlations: NDArray[np.float64] = gram
    return correlations


def _upper_moments(predicted: Floats, true: Floats) -> Moments:
    """Moments over all pairs of genes, columns of the triangle gathered into blocks."""
    g = len(true)
    step = max(1, BLOCK_ELEMENTS // g)
    return merged(
        moments(*(np.concatenate([matrix[:j, j] for j in columns])[:, None] for matrix in (predicted, true)))
        for columns in (range(start, min(start + step, g)) for start in range(1, g, step))
    )


__all__ = ["FoldScore", "SlideScore", "mean_of_defined", "pearson_columns", "score_fold", "score_slide"]


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


def score_fold(
    prediction: Floats,
    truth: Floats,
    *,
    slide: Ints,
    heg50: Ints,
    hvg50: Ints,
    center_um: Floats | None = None,
    gene_correlation: bool = True,
) -> FoldScore:
    """Return the scores of one fold.

    Parameters
    ----------
    prediction, truth
        Uncentred targets, slide offset included, (n_spots, n_genes); read in blocks.
    slide
        Slide of each test spot, (n_spots,). Spots of one slide that lie side by side are read in place; a slide whose
        spots lie scattered is copied.
    heg50, hvg50
        Gene positions of the 50 most expressed and the 50 most variable genes, ranked on training slides.
    center_um
        Positions of the spots, (n_spots, 2). Scores of Moran's I are NaN without.
    gene_correlation
        Whether to compare gene-gene correlations, whose time grows with n_spots * n_genes^2; NaN where not.

    Raises
    ------
    HeadError
        Where the prediction is not finite or has another shape than the truth.
    ProtocolError
        Where the truth is not finite, there is no spot, or `slide` or `center_um` has another length.
    """
    _check_shapes(prediction, truth)
    _check_spots(len(truth), slide, center_um)
    slides, spots = np.unique(slide, return_counts=True)
    parts, scored, measured_spots = [], [], []
    by_slide: dict[str, list[float]] = {}
    for one in slides:
        at = _span(np.flatnonzero(slide == one))
        p, t = prediction[at], truth[at]
        parts.append(_finite(moments(p, t), where=f"test slide {one}"))
        scored.append(_scored(parts[-1]))
        of_spots = spotwise(p, t)
        measured_spots.append(int((~np.isnan(of_spots.pearson)).sum()))
        morans = (np.nan, np.nan) if center_um is None else morans_i_agreement(p, t, spatial_weights(center_um[at]))
        values = {
            **_of_genes(scored[-1].pearson, parts[-1], heg50=heg50, hvg50=hvg50),
            "pcc_spot": float(mean_of_defined(of_spots.pearson)),
            "rmse_spot": float(of_spots.rmse.mean()),
            "gene_correlation": gene_correlation_agreement(p, t, parts[-1]) if gene_correlation else np.nan,
            "morans_i_pcc": morans[0],
            "morans_i_mae": morans[1],
        }
        for name, value in values.items():
            by_slide.setdefault(name, []).append(value)
    return _fold(parts, scored, by_slide, slides=slides, spots=spots, measured_spots=np.array(measured_spots))


def _fold(
    parts: list[Moments],
    scored: list[SlideScore],
    by_slide: dict[str, list[float]],
    *,
    slides: Ints,
    spots: Ints,
    measured_spots: Ints,
) -> FoldScore:
    """Put the slides together."""
    whole = merged(parts)
    pooled = whole.scored_pearson()
    r2_genes = np.full(len(pooled), np.nan)
    np.divide(whole.squared_error, whole.ss_truth, out=r2_genes, where=~whole.constant_truth)
    np.subtract(1.0, r2_genes, out=r2_genes)
    columns = {name: np.array(values, dtype=np.float64) for name, values in by_slide.items()}
    return FoldScore(
        scores=scores_of(columns, pooled, r2_genes, spots=spots, measured_spots=measured_spots),
        slides=slides,
        spots=spots,
        measured_spots=measured_spots,
        pearson=np.stack([score.pearson for score in scored]),
        constant_genes=np.stack([score.constant for score in scored]),
        by_slide=columns,
        pooled=pooled,
        r2_genes=r2_genes,
    )


def _of_genes(pearson: Floats, part: Moments, *, heg50: Ints, hvg50: Ints) -> dict[str, float]:
    """The scores of one slide that its moments and correlations per gene hold."""
    as_zero = np.nan_to_num(pearson, nan=0.0)
    variance_ratio = np.full(len(pearson), np.nan)
    np.divide(part.ss_prediction, part.ss_truth, out=variance_ratio, where=~part.constant_truth)
    return {
        "pcc_slide_mean": float(mean_of_defined(pearson)),
        "pcc_slide_median": median_of_defined(pearson),
        "pcc_heg50": float(mean_of_defined(pearson[heg50])),
        "pcc_hvg50": float(mean_of_defined(pearson[hvg50])),
        "pcc_oracle50": mean_of_best(pearson, TOP_GENES),
        "pcc_test_heg50": float(as_zero[_highest(part.mean_truth)].mean()),
        "pcc_test_hvg50": float(as_zero[_highest(part.ss_truth)].mean()),
        "rvd": float(mean_of_defined((variance_ratio - 1) ** 2)),
        "mse": float(part.squared_error.mean() / part.n),
        "mae": float(part.absolute_error.mean() / part.n),
    }


def _highest(values: Floats) -> Ints:
    """Positions of the 50 highest, ties by position."""
    return np.argsort(-values, kind="stable")[:TOP_GENES]


def _scored(part: Moments) -> SlideScore:
    """Apply the rules for constant columns."""
    return SlideScore(pearson=part.scored_pearson(), constant=part.constant_prediction & ~part.constant_truth)


def _span(rows: Ints) -> slice | Ints:
    """Turn rows that are neighbours into a slice, which needs no copy."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows


def _check_shapes(prediction: Floats, truth: Floats) -> None:
    if prediction.shape != truth.shape or truth.ndim != 2:
        msg = (
            f"A prediction of shape {prediction.shape} came for a truth of shape {truth.shape}; both must be "
            "(n_spots, n_genes) for the same spots and genes."
        )
        raise HeadError(msg)


def _check_spots(n: int, slide: Ints, center_um: Floats | None) -> None:
    if len(slide) != n or not n:
        msg = f"{n} test spots came with {len(slide)} slide labels; give one label per spot, one at least."
        raise ProtocolError(msg)
    if center_um is not None and center_um.shape != (n, 2):
        msg = f"{n} test spots came with positions of shape {center_um.shape}; give (n_spots, 2), x and y in um."
        raise ProtocolError(msg)


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
