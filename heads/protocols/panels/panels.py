"""The panel of a fold, the ranking by mean expression, and which genes of a panel are reported apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....store.arrays import Floats, Ints, Strings
from ....store.errors import ProtocolError
from ..counts import SpotCounts
from ..scores.morans import morans_i, spatial_weights
from ..targets import cp10k_log1p, slide_mean
from .variable_genes import TIE_DECIMALS, slides_that_vary, top_dispersion, top_loess

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


def heg_ranking(slide_means: Floats, genes: Strings) -> Ints:
    """Return gene positions from the highest to the lowest mean over slides, ties by gene name.

    Means that agree to nine decimals are equal: the order in which a processor adds would decide beyond.

    Parameters
    ----------
    slide_means
        Mean log1p(CP10K) of each training slide, (n_slides, n_genes): every slide counts the same, however many
        spots it has. Any other score of a gene on a slide, such as its Moran's I, ranks the same way.
    genes
        Names of the columns, (n_genes,).

    Returns
    -------
    ndarray
        A permutation of the genes, (n_genes,).
    """
    if slide_means.ndim != 2 or not len(slide_means):
        msg = f"Slide means of shape (n_slides, n_genes) were wanted; the shape is {slide_means.shape}."
        raise ProtocolError(msg)
    if slide_means.shape[1] != len(genes):
        msg = f"{slide_means.shape[1]} columns of means came with {len(genes)} gene names; give one name a column."
        raise ProtocolError(msg)
    mean = np.mean(slide_means, axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        msg = f"{int((~np.isfinite(mean)).sum())} genes have no finite mean; leave slides without spots out."
        raise ProtocolError(msg)
    return np.lexsort((np.asarray(genes, dtype=str), -mean.round(TIE_DECIMALS)))


def heg_within(slide_means: Floats, genes: Strings, *, size: int = HEG_REPORTED) -> Ints:
    """Return the panel's genes of highest mean expression, for a panel that was ranked by any rule.

    Parameters
    ----------
    slide_means
        Mean log1p(CP10K) of the panel's genes on each training slide, (n_slides, n_panel).
    genes
        Names of the panel's genes, (n_panel,).
    size
        How many genes to take; all of them where the panel has no more.

    Returns
    -------
    ndarray
        Positions within the panel in panel order, (min(size, n_panel),).
    """
    return np.sort(heg_ranking(slide_means, genes)[:size])


def hvg_within(expression: Floats, slide: Ints, *, size: int = HVG_REPORTED) -> Ints:
    """Return the panel's most variable genes by scanpy's dispersion rule, slides as batches.

    This is ``scanpy.pp.highly_variable_genes(flavor="seurat", batch_key=slide)`` on the panel alone: a gene ranks by
    the number of slides on which it is among the `size` most dispersed, then by its mean normalised dispersion. Ties,
    which scanpy leaves to rounding, go by rank in the panel: see `variable_genes.top_dispersion`.

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
    usable = slides_that_vary(expression, slide)
    # Names that sort as the panel does, for ties go by name.
    names = np.array([f"{position:06d}" for position in range(n_genes)])
    return np.sort(top_dispersion(expression[usable], names, slide[usable], size=size))


def slide_profiles(counts: SpotCounts) -> Floats:
    """Mean log1p(CP10K) of each gene on each slide, slides ascending, (n_slides, n_genes)."""
    return slide_mean(cp10k_log1p(counts.matrix, total=counts.depth), counts.slide)[1]


def slide_morans(counts: SpotCounts) -> Floats:
    """Moran's I of log1p(CP10K) of each gene on each slide, slides ascending, (n_slides, n_genes).

    0 for a gene that is constant on a slide, which shows no pattern there; to leave the slide out of the mean instead
    would favour genes that were seen on a single one. On square arrays, where the fifth to eighth neighbour are
    equally far, the six nearest are those of the lowest rows, as `nearest_in_tissue` has it.
    """
    expression = cp10k_log1p(counts.matrix, total=counts.depth)
    rows = [np.flatnonzero(counts.slide == slide) for slide in np.unique(counts.slide)]
    scores = [morans_i(expression[spots], spatial_weights(counts.center_um[spots])) for spots in rows]
    return np.nan_to_num(np.stack(scores), nan=0.0)


def top_mean(counts: SpotCounts, size: int, *, slide_scores: Callable[[SpotCounts], Floats]) -> Ints:
    """Genes of the highest mean over slides of a score of the slide, highest first, ties by name."""
    return heg_ranking(slide_scores(counts), counts.genes)[:size]


def hvg(counts: SpotCounts, size: int) -> Ints:
    """Scanpy's highly variable genes of log1p(CP10K), slides as batches: see `variable_genes.top_dispersion`."""
    expression = cp10k_log1p(counts.matrix, total=counts.depth)
    usable = slides_that_vary(expression, counts.slide)
    return top_dispersion(expression[usable], counts.genes, counts.slide[usable], size=size)


def hvg_seurat_v3(counts: SpotCounts, size: int) -> Ints:
    """Scanpy's highly variable genes of raw counts, slides as batches: see `variable_genes.top_loess`."""
    usable = slides_that_vary(counts.matrix, counts.slide)
    return top_loess(counts.matrix[usable], counts.genes, counts.slide[usable], size=size)
