"""Scores within each spot over genes, as M2ORT's code has them.

They reward what is alike in all spots, a gene's level above all: the mean profile of a cohort scores high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from .moments import BLOCK_ELEMENTS, is_constant


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
