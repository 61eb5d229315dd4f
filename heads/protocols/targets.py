"""From raw counts to what heads predict: log1p of counts per 10,000, depth, spot weights, slide means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import CohortError, ProtocolError
from ...store.spatial.window import lattice
from .counts import SpotCounts

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


PER_10K = 1e4
PER_MILLION = 1e6


@dataclass(frozen=True)
class TargetRule:
    """How counts become targets.

    Attributes
    ----------
    function
        Takes counts and the panel's positions, returns float64 (n, n_panel). Rows are those of the counts, also of
        spots without a count, whose targets are 0.
    summary
        The transform as a formula; x is a spot's raw count of a gene.
    source
        Who predicts it.
    unit
        What a colour bar of such values says.
    over_panel
        Whether a spot's total is taken over the genes of the panel, so that a value depends on all of them.
    leaves_out_unseen
        Whether the source drops spots without a count in the panel; `seen_in_panel` tells which.
    """

    function: Callable[[SpotCounts, Ints], Floats]
    summary: str
    source: str
    unit: str
    over_panel: bool = False
    leaves_out_unseen: bool = False


def seen_in_panel(counts: SpotCounts, panel: Ints) -> Bools:
    """Whether a spot has any count in the panel, (n,)."""
    return depth(counts.matrix[:, panel]) > 0


def _log1p_raw(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_panel_counts(counts, panel)[0]))


def _log1p_cp10k(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(cp10k_log1p(counts.matrix[:, panel], total=counts.depth).toarray())


def _log1p_cp10k_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_shares(counts, panel) * PER_10K))


def _ln_cpm_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_shares(counts, panel) * PER_MILLION))


def _log10_cp10k_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log10(_shares(counts, panel) * PER_10K + 1))


def _log1p_median(counts: SpotCounts, panel: Ints) -> Floats:
    """Total over all genes of the file, as in the second pass of CMRCNet's code."""
    return np.asarray(median_log1p(counts.matrix[:, panel], counts.depth, counts.slide).toarray())


def _shares(counts: SpotCounts, panel: Ints) -> Floats:
    """Share of each gene in the spot's total over the panel, (n, n_panel); 0 where that total is."""
    raw, total = _panel_counts(counts, panel)
    return np.divide(raw, total[:, None], out=np.zeros_like(raw), where=total[:, None] > 0)


def _panel_counts(counts: SpotCounts, panel: Ints) -> tuple[Floats, Floats]:
    """Raw counts of the panel, float64 (n, n_panel), and their total a spot, (n,)."""
    picked = counts.matrix[:, panel]
    return picked.astype(np.float64).toarray(), depth(picked)


TARGET_RULES: dict[str, TargetRule] = {
    "log1p-raw": TargetRule(_log1p_raw, "ln(1 + x)", "HEST-Benchmark", "ln(1 + counts)"),
    "log1p-cp10k": TargetRule(
        _log1p_cp10k,
        "ln(1 + 10,000 x / total over all genes)",
        "the default of this project",
        "ln(1 + counts per 10,000)",
    ),
    "log1p-cp10k-panel": TargetRule(
        _log1p_cp10k_panel,
        "ln(1 + 10,000 x / total over the panel)",
        "TRIPLEX, before its smoothing",
        "ln(1 + counts per 10,000 of the panel)",
        over_panel=True,
    ),
    "ln-cpm-panel": TargetRule(
        _ln_cpm_panel,
        "ln(1 + 1,000,000 x / total over the panel)",
        "M2ORT and M2OST",
        "ln(1 + counts per million of the panel)",
        over_panel=True,
        leaves_out_unseen=True,
    ),
    "log10-cp10k-panel": TargetRule(
        _log10_cp10k_panel,
        "log10(1 + 10,000 x / total over the panel)",
        "MMAP; NH2ST, before its smoothing",
        "log10(1 + counts per 10,000 of the panel)",
        over_panel=True,
    ),
    "log1p-median": TargetRule(
        _log1p_median,
        "ln(1 + m x / total over all genes), m the median total of the slide's spots",
        "CMRCNet",
        "ln(1 + counts at the slide's median total)",
    ),
}


def get_target_rule(name: str) -> TargetRule:
    """Return the rule of that name.

    Raises
    ------
    ProtocolError
        Where there is none; the message lists the valid names.
    """
    if name not in TARGET_RULES:
        msg = f"There is no target rule {name!r}; choose one of: {', '.join(TARGET_RULES)}."
        raise ProtocolError(msg)
    return TARGET_RULES[name]


def smooth_3x3(values: Floats, array: Ints | None, slide: Ints) -> Floats:
    """Return the mean over the spots at most one row and one column away, the spot itself among them.

    Parameters
    ----------
    values
        (n, n_columns), such as targets of all spots of the slides: a spot that was left out is missing from its
        neighbours' means.
    array
        (n, 2) row and column on the array. Where columns step by two along a row, as on Visium, that reaches the four
        diagonal spots and not the two beside, as in NH2ST's code.
    slide
        (n,) slide of each spot; means stay within it.

    Returns
    -------
    ndarray
        float64 (n, n_columns).

    Raises
    ------
    ProtocolError
        If array positions are not known.
    StoreError
        If two spots of a slide share a position.
    """
    if array is None:
        msg = "Targets are smoothed over array positions, which a slide lacks; choose a protocol without smoothing."
        raise ProtocolError(msg)
    n = len(array)
    window = lattice(array, 3, center_um=np.asarray(array, dtype=np.float64), kind="square", slide=slide)
    found = window.mask.sum(axis=1)  # (n,), at least 1: the spot itself
    starts = np.concatenate([[0], np.cumsum(found)])
    mean = sparse.csr_matrix((np.repeat(1.0 / found, found), window.index[window.mask], starts), shape=(n, n))
    return np.asarray(mean @ np.asarray(values, dtype=np.float64))
