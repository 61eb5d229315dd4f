"""Moran's I: how far neighbours in tissue resemble one another, per gene."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from ....store.arrays import Floats, Ints
from ....store.errors import ProtocolError
from ....store.spatial.neighbourhood import nearest_in_tissue
from .moments import AGREEMENT_RTOL, is_constant, moments

NEIGHBOURS = 6

# 4 MB of float64 a block of genes: it and its product with the weights stay near the processor's cache.
BLOCK_ELEMENTS = 1 << 19


def spatial_weights(center_um: Floats, *, k: int = NEIGHBOURS, slide: Ints | None = None) -> sparse.csr_matrix:
    """Return the weights of each spot's k nearest spots: 1 / the number it has, so that a row sums to 1.

    Parameters
    ----------
    center_um
        (n, 2) positions.
    k
        Neighbours of a spot; all others of its slide where these are fewer. Ties by row.
    slide
        (n,) slide of each spot: spots of other slides are never neighbours. One slide where not given.

    Returns
    -------
    csr_matrix
        float64 (n, n). The row of a spot that is alone on its slide is empty.

    Raises
    ------
    StoreError
        If k is not positive, a position is not finite, or `slide` has another length.

    Notes
    -----
    squidpy's `spatial_neighbors(coord_type="generic", n_neighs=6)` with the row normalisation of its
    `spatial_autocorr`. Weights are not made symmetric.
    """
    near = nearest_in_tissue(center_um, k, slide=slide)
    found = near.mask.sum(axis=1)  # (n,)
    starts = np.concatenate([[0], np.cumsum(found)])
    share = np.repeat(1.0 / np.maximum(found, 1), found)
    weights = sparse.csr_matrix((share, near.index[near.mask], starts), shape=(len(found), len(found)))
    weights.sort_indices()
    return weights


def morans_i(values: Floats | sparse.spmatrix, weights: sparse.csr_matrix) -> Floats:
    """Return Moran's I of each column: n / sum(w) * sum_ij(w_ij z_i z_j) / sum_i(z_i^2), z the deviations.

    Parameters
    ----------
    values
        (n, g) of any float type, or sparse; taken in blocks of columns.
    weights
        (n, n), of `spatial_weights`. Deviations are from the mean over all n spots: where these are of several
        slides, differences between slides count as spatial structure.

    Returns
    -------
    ndarray
        float64 (g,). NaN where a column is constant within rounding, or holds NaN, or no spot has a neighbour.

    Raises
    ------
    ProtocolError
        If the weights are of another number of spots.

    References
    ----------
    Moran, Biometrika 37 (1950); as `esda.Moran`, `scanpy.metrics.morans_i` and squidpy compute it.
    """
    n, g = values.shape
    if weights.shape != (n, n):
        msg = f"weights of shape {weights.shape} came for values of {n} spots; make them from the same spots' positions"
        raise ProtocolError(msg)
    total = float(weights.sum())
    found = np.full(g, np.nan)
    if not total > 0:
        return found
    columns: Any = sparse.csc_matrix(values) if sparse.issparse(values) else values
    step = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, g, step):
        part = columns[:, start : start + step]
        z = np.array(part.toarray() if sparse.issparse(part) else part, dtype=np.float64, order="C")
        # NaN and infinity make a column undefined below; numpy need not warn as well.
        with np.errstate(invalid="ignore", over="ignore"):
            mean = z.mean(axis=0)
            z -= mean
            around = np.einsum("ij,ij->j", z, weights @ z)
            ss = np.einsum("ij,ij->j", z, z)
            defined = ~is_constant(n, mean, ss) & np.isfinite(ss)
        np.divide(n / total * around, ss, out=found[start : start + step], where=defined)
    return found


def morans_i_agreement(prediction: Floats, truth: Floats, weights: sparse.csr_matrix) -> tuple[float, float]:
    """Return how Moran's I of prediction and truth agree over genes: their Pearson, and the mean absolute difference.

    Genes whose truth is constant are left out; a constant prediction has no structure, and its Moran's I counts as 0.
    Both are NaN where no gene is left, or no spot has a neighbour; the Pearson also where the truth is the same for
    all genes, and it is 0 where the prediction is.

    Parameters
    ----------
    prediction, truth
        One slide, (n_spots, n_genes).
    weights
        (n_spots, n_spots), of `spatial_weights`.
    """
    true = morans_i(truth, weights)
    genes = np.flatnonzero(~np.isnan(true))
    if not len(genes):
        return float("nan"), float("nan")
    predicted = np.nan_to_num(morans_i(prediction, weights)[genes], nan=0.0)
    pairs = moments(predicted[:, None], true[genes, None])
    return float(pairs.scored_pearson(rtol=AGREEMENT_RTOL)[0]), float(pairs.absolute_error[0] / len(genes))
