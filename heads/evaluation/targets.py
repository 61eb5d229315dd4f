"""From raw counts to what heads predict: log1p of counts per 10,000, depth, spot weights, slide means."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import CohortError

COUNTS_PER = 1e4


def depth(counts: sparse.csr_matrix) -> Floats:
    """Return the total count of each spot over all measured genes, float64 (n_spots,).

    Raises
    ------
    CohortError
        Where a count is negative or not finite.
    """
    values = counts.data
    if values.size and not (np.isfinite(values).all() and values.min() >= 0):
        msg = (
            f"Counts must be finite and not negative; the least is {values.min()}. Give raw counts, not values that "
            "were normalised, logged or scaled."
        )
        raise CohortError(msg)
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def cp10k_log1p(
    counts: sparse.csr_matrix, *, genes: Ints | Bools | None = None, total: Floats | None = None
) -> sparse.csr_matrix:
    """Return log1p(1e4 * counts / total), the total taken over all measured genes of the spot.

    Parameters
    ----------
    counts
        Raw counts, CSR of shape (n_spots, n_genes): of all measured genes, or of some with `total` beside them.
    genes
        Positions or mask of the genes to keep, in that order; the total is still over all genes.
    total
        Total count of each spot over all measured genes, (n_spots,); None takes it from `counts`.

    Returns
    -------
    csr_matrix
        float64 of shape (n_spots, n_kept). A spot without any count has zeros: nothing was seen of it, and its
        weight is zero as well (`spot_weights`).

    Raises
    ------
    CohortError
        Where a count is negative or not finite, or there is not one total per spot.
    """
    total = _checked_total(counts, total)
    scale = np.divide(COUNTS_PER, total, out=np.zeros_like(total), where=total > 0)
    kept = counts if genes is None else counts[:, genes]
    return log1p_scaled(kept, scale)


def _checked_total(counts: sparse.csr_matrix, total: Floats | None) -> Floats:
    """Totals as float64 (n_spots,), those of the counts where none are given."""
    seen = depth(counts)
    total = seen if total is None else np.asarray(total, dtype=np.float64)
    # A total below the counts it should contain was taken over other genes, or of other spots.
    if total.shape != seen.shape or not (total >= seen * (1 - 1e-6)).all():
        msg = (
            f"Totals of shape {total.shape} came with counts of {len(seen)} spots; give each spot's total over all "
            "measured genes, which is at least the sum of its row."
        )
        raise CohortError(msg)
    return total


def median_log1p(counts: sparse.csr_matrix, total: Floats, slide: Ints) -> sparse.csr_matrix:
    """Return log1p(m * counts / total), m the median total of the spot's slide over spots with counts.

    This is ``scanpy.pp.normalize_total`` without a target sum, then ``log1p``, slide by slide.

    Parameters
    ----------
    counts
        Raw counts, CSR of shape (n_spots, n_genes).
    total
        Total count of each spot, (n_spots,), over whichever genes the scale is to be taken.
    slide
        Slide of each spot, (n_spots,).

    Returns
    -------
    csr_matrix
        float64 (n_spots, n_genes); zeros for a spot without counts.

    Raises
    ------
    CohortError
        Where a count is negative or not finite, or there is not one total per spot.
    """
    total = _checked_total(counts, total)
    scale = np.zeros(len(slide))
    for one in np.unique(slide):
        rows = np.flatnonzero((slide == one) & (total > 0))
        if len(rows):
            scale[rows] = np.median(total[rows]) / total[rows]
    return log1p_scaled(counts, scale)


def log1p_scaled(counts: sparse.csr_matrix, scale: Floats) -> sparse.csr_matrix:
    """Return log1p(scale * counts), one factor a spot, as a new float64 CSR of the shape of `counts`."""
    target = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    # Two entries for one cell of a matrix add up; log1p of each apart would not.
    target.sum_duplicates()
    target.data = np.log1p(target.data * np.repeat(scale, np.diff(target.indptr)))
    return target


def median_depth(depth: Floats) -> float:
    """Return c of `spot_weights`: the median depth of the training spots."""
    return float(np.median(depth))


def spot_weights(depth: Floats, c: float) -> Floats:
    """Return depth / (depth + c), how far a spot's counts are trusted in the loss.

    Parameters
    ----------
    depth
        Total count of each spot, (n_spots,).
    c
        Depth at which a spot weighs one half: `median_depth` of the training spots.

    Returns
    -------
    ndarray
        float64 (n_spots,), 0 for an empty spot and below 1 for every other.
    """
    if not c >= 0:
        msg = f"The half-weight depth must be zero or more; it is {c}. Take the median depth of the training spots."
        raise CohortError(msg)
    total = np.asarray(depth, dtype=np.float64)
    return np.divide(total, total + c, out=np.zeros_like(total), where=total > 0)


def slide_mean(values: Floats | sparse.csr_matrix, slide: Ints) -> tuple[Ints, Floats]:
    """Return the mean of each slide's rows.

    Parameters
    ----------
    values
        Shape (n_spots, n_columns), dense or sparse.
    slide
        Slide of each row, any integers, in any order, (n_spots,).

    Returns
    -------
    slides : ndarray
        The different slides in ascending order, (n_slides,).
    means : ndarray
        float64 (n_slides, n_columns).
    """
    slides, row = np.unique(slide, return_inverse=True)
    return slides, _sums(values, row, len(slides)) / np.bincount(row, minlength=len(slides))[:, None]


def centre_by_slide(values: Floats, slide: Ints) -> Floats:
    """Return the deviation of each row from the mean of its slide, float64 (n_spots, n_columns)."""
    slides, means = slide_mean(values, slide)
    centred: Floats = values - means[np.searchsorted(slides, slide)]
    return centred


def _sums(values: Floats | sparse.csr_matrix, row: Ints, n_rows: int) -> Floats:
    """Sum of the values that fall into each row, (n_rows, n_columns), as a product with a sparse indicator."""
    n = len(row)
    indicator = sparse.csr_matrix((np.ones(n), (row, np.arange(n))), shape=(n_rows, n))
    if sparse.issparse(values):
        return np.asarray((indicator @ values).toarray())
    return np.asarray(indicator @ np.asarray(values, dtype=np.float64))
