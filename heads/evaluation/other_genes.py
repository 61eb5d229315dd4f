"""How well a gene is told by the other genes of its spot: a mark for what lies behind expression as a whole.

What several genes do together (cell types, states, depth) shows in all of them; what one gene does alone, noise of
counting or of biology, shows in none of the others. Ridge that reads the measured panel but one gene and predicts that
gene on slides it has not seen reaches a correlation which is no bound (an image may show what no other gene does, and
ridge on noisy genes loses some) but tells far more of what a picture can hope for than the ceiling of counting.

For standardised genes with correlation C, the ridge coefficients of each gene on all others are rows of one inverse:
with P = (C + a I)^-1, beta_gh = -P_gh / P_gg (the inverse of a partitioned matrix). So all genes cost one inverse.
"""

from __future__ import annotations

import numpy as np

from ...store.arrays import Floats, Ints
from .defined import mean_of_defined
from .metrics import pearson_columns

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Times the number of spots, on genes of unit variance. The best on the mean over all genes is taken: one choice
among six from thousands of scores, whose optimism is far below the third decimal."""

GROUPS = 5
# One inverse a group and penalty: beyond, minutes are spent on a line that is there to guide the eye.
MAX_GENES = 1500


def from_other_genes(values: Floats, slide: Ints) -> Floats:
    """Return the within-slide Pearson that ridge on the other genes reaches on slides held out, per gene.

    Parameters
    ----------
    values
        Targets, (n, n_genes).
    slide
        Slide of each spot, (n,). Slides are held out in five groups, each slide alone where they are fewer.

    Returns
    -------
    ndarray
        Mean over slides, (n_genes,); NaN where a gene is constant on every slide, and for all genes where there is one
        slide, fewer than two genes, or more than 1,500.
    """
    slides, n_genes = np.unique(slide), values.shape[1]
    if len(slides) < 2 or not 2 <= n_genes <= MAX_GENES:
        return np.full(n_genes, np.nan)
    parts = _standardised([np.asarray(values[slide == one], dtype=np.float64) for one in slides])
    group = np.arange(len(slides)) % min(GROUPS, len(slides))
    scores = np.full((len(PENALTIES), n_genes, len(slides)), np.nan)
    for held in np.unique(group):
        training = [part for part, own in zip(parts, group, strict=True) if own != held]
        correlation = np.sum([part.T @ part for part in training], axis=0) / sum(map(len, training))
        for i, penalty in enumerate(PENALTIES):
            coefficients = leave_one_gene_out(correlation, penalty)
            for s in np.flatnonzero(group == held):
                scores[i, :, s] = pearson_columns(parts[s] @ coefficients, parts[s])
    by_penalty = mean_of_defined(scores)  # (n_penalties, n_genes)
    overall = mean_of_defined(by_penalty)
    best = int(np.argmax(np.where(np.isnan(overall), -np.inf, overall)))
    return np.asarray(by_penalty[best])


def leave_one_gene_out(correlation: Floats, penalty: float) -> Floats:
    """Return ridge coefficients of every gene on all others, one gene a column, 0 for itself, (n_genes, n_genes).

    Parameters
    ----------
    correlation
        Of the genes, (n_genes, n_genes), or their second moments per spot.
    penalty
        Added to the diagonal.
    """
    inverse = np.linalg.inv(correlation + penalty * np.eye(len(correlation)))
    coefficients: Floats = -inverse / np.diag(inverse)
    np.fill_diagonal(coefficients, 0.0)
    return coefficients


def _standardised(parts: list[Floats]) -> list[Floats]:
    """Centre each slide's genes and bring them to unit variance within slides, over all slides together."""
    centred = [part - part.mean(axis=0) for part in parts]
    n = sum(map(len, parts))
    spread = np.sqrt(sum(np.einsum("ij,ij->j", part, part) for part in centred) / n)
    scale = np.where(spread > 0, spread, 1.0)
    return [part / scale for part in centred]
