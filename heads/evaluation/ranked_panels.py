"""Panels by mean expression, by variability and by spatial pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...store.arrays import Floats, Ints
from .counts import SpotCounts
from .morans import morans_i, spatial_weights
from .panels import heg_ranking
from .targets import cp10k_log1p, slide_mean
from .variable_genes import slides_that_vary, top_dispersion, top_loess


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
