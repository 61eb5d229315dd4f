"""Which maps a report shows: the best, a median and chosen genes of the best head, where a reader looks first."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.errors import StoreError
from ...store.schema import slide_path
from ...store.slide_file import read_thumbnail
from ...store.store import Store
from ...store.table import Table
from .aggregate import ScoredFold
from .comparison import GeneMap, Record
from .leaderboard_rows import HEADLINE_FIELD
from .lines import Line, line_of_record
from .numerals import number

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one head on the test slides of one fold."""

    test: Table
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]
    scored: ScoredFold


def gene_maps(
    store: Store,
    records: Sequence[Record],
    held_out: Mapping[Line, Sequence[HeldOut]],
    *,
    genes: Sequence[str] = (),
    score: str = HEADLINE_FIELD,
    unit: str = "",
) -> tuple[GeneMap, ...]:
    """Maps of the best head that is no control, under the first protocol.

    The best gene has the highest within-slide correlation averaged over test slides; the median gene the middle one.
    Each is shown on the slide whose own correlation is the median over slides, so that the picture is typical.

    Parameters
    ----------
    store
        Of the thumbnails.
    records
        As in `Comparison.records`.
    held_out
        Predictions of each line on all folds.
    genes
        To show besides; those that no fold predicts are left out, and `genes_without_map` names them.
    score
        The field by which the first protocol ranks.
    unit
        Of measured and predicted values.
    """
    whole = [r for r in records if r["fold"] == "all" and not r["control"] and np.isfinite(_score(r, score))]
    if not whole:
        return ()
    first = [r for r in whole if r["protocol"] == records[0]["protocol"]] or whole
    best = max(first, key=lambda record: _score(record, score))
    line = line_of_record(best)
    held = held_out[line]
    known = _scores_by_gene(held)
    most = max(map(len, known.values()), default=0)
    everywhere = [gene for gene, by_slide in known.items() if len(by_slide) == most]
    ranked = sorted(everywhere, key=lambda gene: float(np.mean(list(known[gene].values()))), reverse=True)
    if not ranked:
        return ()
    shown = [("best gene", ranked[0]), ("median gene", ranked[len(ranked) // 2])]
    shown += [("chosen gene", gene) for gene in dict.fromkeys(genes) if gene in known]
    drawn = [_map(store, held, gene, known[gene], role=role, head=line[-1]) for role, gene in shown]
    return tuple(replace(one, unit=unit) for one in drawn)


def genes_without_map(genes: Sequence[str], maps: Sequence[GeneMap]) -> tuple[str, ...]:
    """Return a sentence for each gene that was asked for and is not shown."""
    shown = {gene_map.gene for gene_map in maps}
    return tuple(
        f"no map of gene {gene}: it is in no fold's panel, or measured the same everywhere"
        for gene in dict.fromkeys(genes)
        if gene not in shown
    )


def _score(record: Record, field: str) -> float:
    value = number(record, field)
    return float("nan") if value is None else value


def _scores_by_gene(held: Sequence[HeldOut]) -> dict[str, dict[str, float]]:
    """Gene -> slide -> correlation where it is defined."""
    scores: dict[str, dict[str, float]] = {}
    for one in held:
        for slide, row in zip(one.scored.score.slides, one.scored.score.pearson, strict=True):
            for gene, pcc in zip(one.test.panel, row, strict=True):
                if np.isfinite(pcc):
                    scores.setdefault(gene, {})[one.test.slide_ids[slide]] = float(pcc)
    return scores


def _map(
    store: Store, held: Sequence[HeldOut], gene: str, by_slide: dict[str, float], *, role: str, head: str
) -> GeneMap:
    slide_id = sorted(by_slide, key=lambda slide: by_slide[slide])[len(by_slide) // 2]
    one = next(h for h in held if slide_id in h.test.slide_ids and gene in h.test.panel)
    here = one.test.slide == one.test.slide_ids.index(slide_id)
    column = one.test.panel.index(gene)
    slide = store.slide(slide_id)
    try:
        thumbnail = read_thumbnail(slide_path(store.path, slide_id))
    except StoreError as error:  # imported without its image: the map stands without one
        log.info("%s", error)
        thumbnail = None
    return GeneMap(
        gene=gene,
        slide_id=slide_id,
        role=role,
        center_um=_floats(one.test.center_um[here]),
        measured=_floats(one.truth[here, column]),
        predicted=_floats(one.prediction[here, column]),
        pcc=by_slide[slide_id],
        head=head,
        thumbnail=thumbnail,
        thumbnail_um_per_px=None if thumbnail is None else slide.width_px * slide.mpp / thumbnail.shape[1],
    )


def _floats(values: Floats) -> Floats:
    return np.asarray(values, dtype=np.float64)
