"""Rules that choose a panel from raw counts, by name. A protocol says whether of training slides or of all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse

from ....store.arrays import Floats, Ints
from ....store.errors import CohortError, ProtocolError
from ..counts import SpotCounts
from ..targets import depth, median_log1p
from .panels import hvg, hvg_seurat_v3, slide_morans, slide_profiles, top_mean
from .variable_genes import flagged, slides_that_vary

HEST_SEEN_SHARE = 0.10
HEST_PROBES = ("BLANK", "Control")
MMAP_SEEN, MMAP_SPOTS = 1000, 13620
M2ORT_VARIABLE = 1500
M2ORT_SEED = 1553
"""The seed of M2ORT's split; its draw of genes has none."""


def hest(counts: SpotCounts, size: int) -> Ints:
    """Genes of HEST-Benchmark, in name order (Jaume et al. 2024; `get_k_genes` of its code at afd42c3).

    Genes in at least 10 % of the spots of every slide, names with BLANK or Control left out; raw counts of all slides
    stacked, log1p, scanpy's `highly_variable_genes(n_top_genes=size)`; the first `size` flagged in name order.
    """
    kept = np.array([not any(probe in name for probe in HEST_PROBES) for name in counts.genes.tolist()], dtype=bool)
    for slide in np.unique(counts.slide):
        rows = np.flatnonzero(counts.slide == slide)
        kept &= _seen(counts.matrix[rows]) >= np.ceil(HEST_SEEN_SHARE * len(rows))
    found = np.flatnonzero(kept)
    if not len(found):
        msg = "No gene is seen in 10 % of the spots of every slide; leave the shallowest slides out."
        raise ProtocolError(msg)
    found = found[np.argsort(counts.genes[found])]  # HEST intersects with np.intersect1d, which sorts
    stacked = counts.matrix[:, found].astype(np.float32).log1p()
    slides_that_vary(stacked, np.zeros(len(counts), dtype=np.int64))
    return found[flagged(stacked, counts.genes[found], size=size)][:size]


def mmap(counts: SpotCounts, size: int) -> Ints:
    """Genes of MMAP, most variable first: highly variable ones less those seen in few spots.

    Its list has 785 of 1,000: those seen in at least 1,000 spots of a cohort of 13,620, here in that share of the
    spots. The source names no flavour of variability; this is `ranked_panels.hvg`. `size` counts the genes before the
    cut.
    """
    variable = hvg(counts, size)
    kept = variable[_seen(counts.matrix)[variable] * MMAP_SPOTS >= MMAP_SEEN * len(counts)]
    if not len(kept):
        msg = (
            f"None of the {size} most variable genes is seen in {MMAP_SEEN / MMAP_SPOTS:.1%} of the spots; ask for "
            "more genes, or leave the shallowest slides out."
        )
        raise ProtocolError(msg)
    return kept


def m2ort(counts: SpotCounts, size: int) -> Ints:
    """Genes of M2ORT, in name order: drawn at random among those that vary most on every slide.

    Each slide's 1,500 genes of highest variance of the raw counts, intersected, and `size` drawn from them. Its code
    draws from a set, whose order cannot be repeated; here the sorted names are drawn from with the seed 1553. All of
    them where there are fewer.
    """
    common = set(counts.genes.tolist())
    for slide in np.unique(counts.slide):
        part = counts.matrix[np.flatnonzero(counts.slide == slide)].astype(np.float64)
        total, squares = (np.asarray(values.sum(axis=0)).ravel() for values in (part, part.power(2)))
        spread = part.shape[0] * squares - total**2  # n^2 times the variance: whole numbers, so ties are exact
        common &= set(counts.genes[np.lexsort((counts.genes, -spread))[:M2ORT_VARIABLE]].tolist())
    if not common:
        msg = f"No gene is among the {M2ORT_VARIABLE} most variable of every slide; compare fewer slides."
        raise ProtocolError(msg)
    drawn = random.Random(M2ORT_SEED).sample(sorted(common), min(size, len(common)))
    position = {name: i for i, name in enumerate(counts.genes.tolist())}
    return np.array([position[name] for name in sorted(drawn)])


def cmrc(counts: SpotCounts, size: int) -> Ints:
    """Genes of CMRCNet, in name order: the union of each slide's `size` highly variable ones.

    Counts of a spot are scaled to the slide's median total over the genes that all slides share, log1p, then scanpy's
    default rule, slide by slide (its `pre_process.py`). Slides on which nothing varies are passed over.
    """
    expression = median_log1p(counts.matrix, depth(counts.matrix), counts.slide)
    usable = slides_that_vary(expression, counts.slide)
    union: set[int] = set()
    for slide in np.unique(counts.slide[usable]):
        part = expression[np.flatnonzero(counts.slide == slide)]
        union |= set(np.flatnonzero(flagged(part, counts.genes, size=size)).tolist())
    found = np.array(sorted(union))
    return found[np.argsort(counts.genes[found])]


def _seen(matrix: sparse.csr_matrix) -> Ints:
    """Number of spots in which each gene is counted, (n_genes,)."""
    return np.asarray((matrix > 0).sum(axis=0)).ravel()


@dataclass(frozen=True)
class PanelRule:
    """How a panel is chosen.

    Attributes
    ----------
    function
        Takes counts and a size, returns positions of genes in rank order. `choose` checks what it is given.
    summary
        The rule in plain words, with its source.
    default_size
        The size with which its source uses it.
    slide_scores
        Score of each gene on each slide, (n_slides, n_genes) with slides ascending, where the rule is their mean over
        slides: computed once for all slides of a cohort, its rows serve every fold through `heg_ranking`.
    """

    function: Callable[[SpotCounts, int], Ints]
    summary: str
    default_size: int
    slide_scores: Callable[[SpotCounts], Floats] | None = None

    def choose(self, counts: SpotCounts, size: int | None = None) -> Ints:
        """Positions of the panel's genes in rank order, int64; `default_size` is asked for where no size is given.

        Raises
        ------
        ProtocolError
            If no gene is asked for, there are no spots, or the rule finds no gene.
        CohortError
            If a gene is named twice, or a count is none.
        """
        size = self.default_size if size is None else size
        if size < 1:
            msg = f"A panel needs at least one gene; {size} were asked for."
            raise ProtocolError(msg)
        if not len(counts):
            msg = "There are no spots to choose a panel from; add slides with counts to the store."
            raise ProtocolError(msg)
        unique, times = np.unique(counts.genes, return_counts=True)
        if (times > 1).any():
            msg = f"Gene {str(unique[times > 1][0])!r} is named {times.max()} times; name each gene once."
            raise CohortError(msg)
        return np.asarray(self.function(counts, size), dtype=np.int64)


PANEL_RULES: dict[str, PanelRule] = {
    "heg": PanelRule(
        partial(top_mean, slide_scores=slide_profiles),
        "genes of highest mean over slides of the slide's mean log1p(CP10K)",
        250,
        slide_profiles,
    ),
    "hvg": PanelRule(hvg, "scanpy's highly variable genes (seurat) of log1p(CP10K), slides as batches", 50),
    "hvg-seurat-v3": PanelRule(
        hvg_seurat_v3, "scanpy's highly variable genes (seurat_v3) of raw counts, slides as batches", 1000
    ),
    "svg": PanelRule(
        partial(top_mean, slide_scores=slide_morans),
        "spatially variable genes: highest mean over slides of Moran's I of log1p(CP10K), six nearest spots",
        250,
        slide_morans,
    ),
    "hest": PanelRule(
        hest,
        "HEST-Benchmark: genes in at least 10 % of the spots of every slide, control probes left out, then scanpy's "
        "highly variable genes (seurat) of log1p of the stacked raw counts",
        50,
    ),
    "mmap": PanelRule(
        mmap,
        "MMAP: highly variable genes (scanpy's seurat, slides as batches; the source names no flavour) less those "
        "seen in fewer than 1,000 of 13,620 spots, here that share of the spots; the size counts them before the cut",
        1000,
    ),
    "m2ort": PanelRule(
        m2ort,
        "M2ORT: the 1,500 genes of highest raw-count variance of each slide, intersected, then a random draw, here "
        "from the sorted names with a fixed seed because the source's order cannot be repeated",
        250,
    ),
    "nh2st": PanelRule(
        partial(top_mean, slide_scores=slide_profiles),
        "NH2ST: genes of highest expression, taken as the rule heg; the source gives lists and not how they were made",
        250,
        slide_profiles,
    ),
    "cmrc": PanelRule(
        cmrc,
        "CMRCNet: union over slides of each slide's highly variable genes (scanpy's seurat) of log1p of counts scaled "
        "to the slide's median total; the size is that of one slide's list",
        1000,
    ),
}


def get_panel_rule(name: str) -> PanelRule:
    """Return the rule of that name.

    Raises
    ------
    ProtocolError
        Where there is none; the message lists the valid names.
    """
    if name not in PANEL_RULES:
        msg = f"There is no panel rule {name!r}; choose one of: {', '.join(PANEL_RULES)}."
        raise ProtocolError(msg)
    return PANEL_RULES[name]
