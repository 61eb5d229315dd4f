"""Which genes are predicted and reported: ranked on training slides only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints, Strings
from ...store.errors import CohortError, MissingDependencyError, ProtocolError

HEG_REPORTED = 50
HVG_REPORTED = 50


@dataclass(frozen=True)
class Panel:
    """The genes that heads predict, in rank order.

    Parameters
    ----------
    genes
        Their names, (n_panel,).
    index
        Their positions in the list that was ranked, (n_panel,).
    """

    genes: Strings
    index: Ints

    @property
    def heg50(self) -> Ints:
        """Positions within the panel of the 50 most highly expressed genes: the first 50, or all where fewer."""
        return np.arange(min(HEG_REPORTED, len(self.genes)))


def genes_on_every_slide(genes_by_slide: Sequence[Strings]) -> Strings:
    """Return the genes measured on every slide, in sorted order, so that slide order does not matter.

    Parameters
    ----------
    genes_by_slide
        One array of gene names per slide of the store.

    Raises
    ------
    ProtocolError
        Where no gene is on all of them.
    CohortError
        Where a slide names a gene twice, because its counts would be ambiguous.
    """
    if not genes_by_slide:
        msg = "There are no slides to take genes from; add slides with counts to the store."
        raise ProtocolError(msg)
    common: Strings | None = None
    for position, names in enumerate(genes_by_slide):
        unique, times = np.unique(np.asarray(names, dtype=str), return_counts=True)
        if (times > 1).any():
            msg = f"Slide {position} names gene {str(unique[times > 1][0])!r} more than once; name each gene once."
            raise CohortError(msg)
        common = unique if common is None else np.intersect1d(common, unique, assume_unique=True)
        if not len(common):
            msg = (
                f"No gene is measured on all of the first {position + 1} slides; they may mix species, or symbols "
                "with Ensembl ids. Give all slides one naming, or compare them apart."
            )
            raise ProtocolError(msg)
    assert common is not None
    return common


def heg_ranking(slide_means: Floats) -> Ints:
    """Return gene positions from the highest to the lowest mean expression, ties in gene order.

    Parameters
    ----------
    slide_means
        Mean log1p(CP10K) of each training slide, (n_slides, n_genes): every slide counts the same, however many
        spots it has.

    Returns
    -------
    ndarray
        A permutation of the genes, (n_genes,).
    """
    if slide_means.ndim != 2 or not len(slide_means):
        msg = f"Slide means of shape (n_slides, n_genes) were wanted; the shape is {slide_means.shape}."
        raise ProtocolError(msg)
    mean = np.mean(slide_means, axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        msg = f"{int((~np.isfinite(mean)).sum())} genes have no finite mean; leave slides without spots out."
        raise ProtocolError(msg)
    return np.argsort(-mean, kind="stable")


def heg_panel(slide_means: Floats, genes: Strings, *, size: int) -> Panel:
    """Return the genes of highest mean expression over training slides.

    Parameters
    ----------
    slide_means
        Mean log1p(CP10K) of each training slide, (n_slides, n_genes).
    genes
        Names of the columns, (n_genes,): those measured on every slide of the store.
    size
        How many to take; all of them where there are fewer.
    """
    if size < 1:
        msg = f"A panel needs at least one gene; {size} were asked for."
        raise ProtocolError(msg)
    if slide_means.shape[-1] != len(genes):
        msg = f"{slide_means.shape[-1]} columns of means came with {len(genes)} gene names; give one name a column."
        raise ProtocolError(msg)
    index = heg_ranking(slide_means)[:size]
    return Panel(genes=np.asarray(genes, dtype=str)[index], index=index)


def hvg_within(expression: Floats, slide: Ints, *, size: int = HVG_REPORTED) -> Ints:
    """Return the panel's most variable genes by scanpy's dispersion rule, slides as batches.

    This is ``scanpy.pp.highly_variable_genes(flavor="seurat", batch_key=slide)`` on the panel alone: a gene ranks by
    the number of slides on which it is among the `size` most dispersed, then by its mean normalised dispersion.

    Parameters
    ----------
    expression
        log1p(CP10K) of the training spots, (n_spots, n_panel).
    slide
        Slide of each spot, (n_spots,). Slides on which nothing varies are left out, for a dispersion needs variance.
    size
        How many genes to take; all of them where the panel has no more.

    Returns
    -------
    ndarray
        Positions within the panel in panel order, (min(size, n_panel),).
    """
    n_genes = expression.shape[1]
    if n_genes <= size:
        return np.arange(n_genes)
    usable = _slides_that_vary(expression, slide)
    if not usable.any():
        msg = "No training slide has two spots that differ, so no gene is variable; train on slides with more spots."
        raise ProtocolError(msg)
    return np.flatnonzero(_seurat_hvg(expression[usable], slide[usable], size=size))


def _slides_that_vary(expression: Floats, slide: Ints) -> Bools:
    """Mask of the spots whose slide has at least one gene that varies, (n_spots,)."""
    usable = np.zeros(len(slide), dtype=bool)
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        usable[rows] = bool((np.ptp(expression[rows], axis=0) > 0).any())
    return usable


def _seurat_hvg(expression: Floats, slide: Ints, *, size: int) -> Bools:
    """Scanpy's verdict per gene, (n_genes,)."""
    try:
        import anndata
        import scanpy
    except ImportError as error:
        msg = f"pcc_hvg50 ranks genes with scanpy, which cannot be imported ({error}); run: pip install scanpy"
        raise MissingDependencyError(msg) from error
    # Names that sort as the panel does: scanpy breaks ties by name.
    names = [f"{position:06d}" for position in range(expression.shape[1])]
    table = anndata.AnnData(
        np.asarray(expression, dtype=np.float64), obs={"slide": [str(one) for one in slide]}, var={"var_names": names}
    )
    with warnings.catch_warnings():
        # A slide that expresses fewer than `size` genes nominates all of them: scanpy's rule, and no news to a user.
        warnings.filterwarnings("ignore", message="`n_top_genes` > number of normalized dispersions")
        verdict = scanpy.pp.highly_variable_genes(
            table, flavor="seurat", batch_key="slide", n_top_genes=size, inplace=False
        )
    return np.asarray(verdict["highly_variable"], dtype=bool)
