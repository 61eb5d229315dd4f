"""From predictions beside the truth to what the report draws of each head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...store.arrays import Floats
from .calibration import calibration, slide_centred
from .defined import mean_of_defined
from .detail import HeadDetail
from .gene_maps import HeldOut
from .lines import Line


def head_details(held_out: Mapping[Line, Sequence[HeldOut]]) -> tuple[HeadDetail, ...]:
    """Return the detail of every head of a comparison.

    Parameters
    ----------
    held_out
        Predictions of each line on all folds, as `Results.held_out`.
    """
    return tuple(head_detail(line, held) for line, held in held_out.items() if held)


def head_detail(line: Line, held: Sequence[HeldOut]) -> HeadDetail:
    """Return the detail of one head.

    Parameters
    ----------
    line
        Protocol, backbone, views, label.
    held
        One entry a fold.
    """
    genes = tuple(dict.fromkeys(gene for one in held for gene in one.test.panel))
    slides = tuple(one.test.slide_ids[slide] for one in held for slide in one.scored.score.slides)
    return HeadDetail(
        line=line,
        genes=genes,
        gene_pcc=mean_of_defined(_by_gene(held, genes)),
        slides=slides,
        slide_pcc=np.concatenate([one.scored.score.slide_mean for one in held]),
        within=calibration(lambda: _centred(held)),
        whole=calibration(lambda: ((one.prediction, one.truth) for one in held)),
    )


def _by_gene(held: Sequence[HeldOut], genes: Sequence[str]) -> Floats:
    """Within-slide Pearson (n_genes, n_slides), NaN where a gene is not in the fold's panel or not defined."""
    position = {gene: i for i, gene in enumerate(genes)}
    columns = []
    for one in held:
        part = np.full((len(genes), len(one.scored.score.slides)), np.nan)
        part[[position[gene] for gene in one.test.panel]] = one.scored.score.pearson.T
        columns.append(part)
    return np.concatenate(columns, axis=1)


def _centred(held: Sequence[HeldOut]) -> Iterable[tuple[Floats, Floats]]:
    for one in held:
        slide = one.test.slide
        yield from zip(slide_centred(one.prediction, slide), slide_centred(one.truth, slide), strict=True)
