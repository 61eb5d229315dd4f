"""Highly variable genes by scanpy's dispersions, most variable first, ties by name on every processor."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ....store.arrays import Bools, Floats, Ints, Strings
from ....store.errors import MissingDependencyError, ProtocolError

if TYPE_CHECKING:
    import pandas

TIE_DECIMALS = 9
"""Scores of genes that agree to so many decimals are equal: what differs beyond is rounding, and so the processor's."""

MIN_LOESS_GENES = 20
"""Below, scikit-misc's loess fails, and with three genes it ends the process."""


def slides_that_vary(expression: Floats | sparse.csr_matrix, slide: Ints) -> Bools:
    """Mask of the spots whose slide has at least one gene that varies, (n_spots,).

    A dispersion needs variance: on a slide of one spot, or of equal ones, scanpy has nothing to rank.

    Raises
    ------
    ProtocolError
        Where that leaves no slide.
    """
    usable = np.zeros(len(slide), dtype=bool)
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        low, high = _extremes(expression[rows])
        usable[rows] = bool((high > low).any())
    if not usable.any():
        msg = "No slide has two spots that differ, so no gene is variable; choose genes on slides with more spots."
        raise ProtocolError(msg)
    return usable


def top_dispersion(expression: Floats | sparse.csr_matrix, names: Strings, slide: Ints, *, size: int) -> Ints:
    """Return the genes of highest normalised dispersion, most variable first, ties by name.

    These are scanpy's normalised dispersions, slide by slide (``highly_variable_genes(flavor="seurat")``): variance
    over mean of the counts, standardised within twenty bins of the mean (Satija et al. 2015, Nat Biotechnol 33:495).
    They are joined as scanpy joins batches, with one rule of our own for ties.

    Parameters
    ----------
    expression
        Natural log1p values, (n_spots, n_genes), dense or CSR; every slide of them varies (`slides_that_vary`).
    names
        Names of the columns, (n_genes,), all different.
    slide
        Slide of each spot, (n_spots,): genes rank by the number of slides on which they are among the `size` most
        dispersed, and by their mean normalised dispersion after that.
    size
        How many genes to take; all of them where there are fewer.

    Notes
    -----
    Two genes alone in a bin are 0.7071 from its mean, both of them, but for rounding, so that the last digit decides
    in scanpy: which of them is among a slide's first, and which comes first in the end, differs between processors.
    Here dispersions that agree to nine decimals are equal. All that equal a slide's last place are among its first,
    and genes that are equal in the end go by name.
    """
    slides = [_dispersions(expression[np.flatnonzero(slide == one)], names) for one in np.unique(slide)]
    nominated = np.sum([_first(found, size) for found, _ in slides], axis=0)
    total = np.sum([np.nan_to_num(found) for found, _ in slides], axis=0)
    slides_counted = np.sum([counted for _, counted in slides], axis=0)
    mean = np.divide(total, slides_counted, out=np.full(len(names), -np.inf), where=slides_counted > 0)
    order: Ints = np.lexsort((names, -mean.round(TIE_DECIMALS), -nominated))
    return order[:size]


def _dispersions(expression: Floats | sparse.csr_matrix, names: Strings) -> tuple[Floats, Bools]:
    """Normalised dispersions of one slide, (n_genes,), and which slides count in a gene's mean.

    NaN for genes that do not vary, whose variance is rounding alone. As scanpy has it, those that are not expressed
    count as 0 in the mean over slides, and constant ones are passed over.
    """
    low, high = _extremes(expression)
    varying = np.flatnonzero(high > low)
    found = np.full(len(names), np.nan)
    found[varying] = _normalised_dispersions(expression[:, varying], names[varying])
    return found, ~np.isnan(found) | (high == 0)


def _extremes(expression: Floats | sparse.csr_matrix) -> tuple[Floats, Floats]:
    """Smallest and largest value of each gene, (n_genes,) each."""
    ends = expression.min(axis=0), expression.max(axis=0)
    low, high = (end.toarray().ravel() if sparse.issparse(end) else end for end in ends)
    return low, high


def _first(dispersion: Floats, size: int) -> Bools:
    """Mask of the `size` highest, and of all that equal the last of them to nine decimals, (n_genes,)."""
    rounded = dispersion.round(TIE_DECIMALS)
    known = np.sort(rounded[~np.isnan(rounded)])
    return np.asarray(np.nan_to_num(rounded, nan=-np.inf) >= known[-min(size, len(known))])


def _normalised_dispersions(values: Floats | sparse.csr_matrix, names: Strings) -> Floats:
    """Scanpy's, (n_genes,) with at least one that is no NaN."""
    found = np.asarray(_verdict(values, names, None, flavor="seurat")["dispersions_norm"], dtype=np.float64)
    if np.isnan(found).all():
        msg = (
            "Scanpy finds no dispersion on a slide: its genes are all alike, or hardly any is seen. Leave slides "
            "of few spots or counts out."
        )
        raise ProtocolError(msg)
    return found


def flagged(expression: sparse.csr_matrix, names: Strings, *, size: int) -> Bools:
    """Mask of the genes that scanpy's default call flags, (n_genes,): more than `size` where several tie at the cut.

    Dispersions that agree to nine decimals tie, see `top_dispersion`; in scanpy the last digit decides.
    """
    return _first(_normalised_dispersions(expression, names), size)


def top_loess(counts: sparse.csr_matrix, names: Strings, slide: Ints, *, size: int) -> Ints:
    """Return the genes of highest variance of clipped, standardised counts, most variable first, ties by name.

    This is ``scanpy.pp.highly_variable_genes(flavor="seurat_v3", batch_key=slide)``: the expected standard deviation
    comes from a loess of log variance on log mean, slide by slide (Stuart et al. 2019, Cell 177:1888); genes rank by
    their median rank over the slides on which they are among the `size` first.

    Parameters
    ----------
    counts
        Raw counts, CSR (n_spots, n_genes); every slide of them varies (`slides_that_vary`).
    names
        Names of the columns, (n_genes,).
    slide
        Slide of each spot, (n_spots,).
    size
        How many genes to take.

    Raises
    ------
    ProtocolError
        Where a slide has too few genes that vary, or the loess fails.
    MissingDependencyError
        Without scikit-misc.
    """
    if find_spec("skmisc") is None:
        msg = "Scanpy fits this rule's loess with scikit-misc, which is not installed; run: pip install scikit-misc"
        raise MissingDependencyError(msg)
    _check_loess_genes(counts, slide)
    by_name = np.argsort(names)  # scanpy's ranks follow the order of columns where values tie
    try:
        table = _verdict(counts[:, by_name], names[by_name], slide, flavor="seurat_v3", n_top_genes=size)
    except ValueError as error:  # raised by the Fortran behind the loess
        msg = f"The loess of variance on mean failed on a slide ({error}). Choose the panel rule hvg, which needs none."
        raise ProtocolError(msg) from error
    rank = table["highly_variable_rank"].to_numpy(dtype=np.float64)  # NaN where a gene is nowhere among the first
    order = np.lexsort((-table["highly_variable_nbatches"].to_numpy(), np.nan_to_num(rank, nan=np.inf)))
    chosen: Ints = by_name[order[table["highly_variable"].to_numpy(dtype=bool)[order]]]
    return chosen


def _check_loess_genes(counts: sparse.csr_matrix, slide: Ints) -> None:
    for one in np.unique(slide):
        part = counts[np.flatnonzero(slide == one)]
        varying = (part.max(axis=0) != part.min(axis=0)).nnz
        if varying < MIN_LOESS_GENES:
            msg = (
                f"{varying} genes vary on slide {one}, too few for a loess of variance on mean, which needs "
                f"{MIN_LOESS_GENES}. Choose the panel rule hvg, which needs none."
            )
            raise ProtocolError(msg)


def _verdict(
    values: Floats | sparse.csr_matrix, names: Strings, slide: Ints | None, **options: Any
) -> pandas.DataFrame:
    """Scanpy's table, one line a gene in the order of `names`."""
    try:
        import anndata
        import scanpy
    except ImportError as error:
        msg = f"Variable genes are ranked with scanpy, which cannot be imported ({error}); run: pip install scanpy"
        raise MissingDependencyError(msg) from error
    table = anndata.AnnData(values, var={"var_names": [str(name) for name in names]})
    if slide is not None:
        table.obs["slide"] = [str(one) for one in slide]
        options["batch_key"] = "slide"
    return scanpy.pp.highly_variable_genes(table, inplace=False, **options)
