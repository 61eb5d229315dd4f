"""Gene-gene correlation agreement: whether genes that go together in the truth do so in the prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints
from .moments import AGREEMENT_RTOL, BLOCK_ELEMENTS, Moments, merged, moments

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
