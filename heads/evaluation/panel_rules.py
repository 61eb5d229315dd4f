"""Rules that choose a panel from raw counts, by name. A protocol says whether of training slides or of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import CohortError, ProtocolError
from .counts import SpotCounts
from .paper_panels import cmrc, hest, m2ort, mmap
from .ranked_panels import hvg, hvg_seurat_v3, slide_morans, slide_profiles, top_mean


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
