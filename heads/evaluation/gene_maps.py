"""Which maps a report shows: the best and a median gene of the best head, on the slide where a reader looks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.schema import slide_path
from ...store.slide_file import read_thumbnail
from ...store.store import Store
from ...store.table import Table
from .aggregate import ScoredFold
from .comparison import GeneMap, Record


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one head on the test slides of one fold."""

    test: Table
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]
    scored: ScoredFold


def gene_maps(
    store: Store, records: Sequence[Record], held_out: dict[tuple[str, str], list[HeldOut]]
) -> tuple[GeneMap, ...]:
    """Maps of the best head that is no control, under the first protocol.

    The best gene has the highest within-slide correlation averaged over test slides; the median gene the middle one.
    Each is shown on the slide whose own correlation is the median over slides, so that the picture is typical.
    """
    whole = [r for r in records if r["fold"] == "all" and not r["control"] and np.isfinite(_score(r))]
    if not whole:
        return ()
    first = [r for r in whole if r["protocol"] == records[0]["protocol"]] or whole
    best = max(first, key=_score)
    held = held_out[str(best["protocol"]), str(best["head"])]
    scores = _scores_by_gene(held)
    ranked = sorted(scores, key=lambda gene: float(np.mean(list(scores[gene].values()))), reverse=True)
    if not ranked:
        return ()
    chosen = {"best gene": ranked[0], "median gene": ranked[len(ranked) // 2]}
    return tuple(
        _map(store, held, gene, scores[gene], role=role, head=str(best["head"])) for role, gene in chosen.items()
    )


def _score(record: Record) -> float:
    return float(str(record["pcc_slide_mean"]))


def _scores_by_gene(held: Sequence[HeldOut]) -> dict[str, dict[str, float]]:
    """Gene -> slide -> correlation, for genes that are defined on as many slides as any gene is."""
    scores: dict[str, dict[str, float]] = {}
    for one in held:
        for slide, row in zip(one.scored.score.slides, one.scored.score.pearson, strict=True):
            for gene, pcc in zip(one.test.panel, row, strict=True):
                if np.isfinite(pcc):
                    scores.setdefault(gene, {})[one.test.slide_ids[slide]] = float(pcc)
    most = max(map(len, scores.values()), default=0)
    return {gene: by_slide for gene, by_slide in scores.items() if len(by_slide) == most}


def _map(
    store: Store, held: Sequence[HeldOut], gene: str, by_slide: dict[str, float], *, role: str, head: str
) -> GeneMap:
    slide_id = sorted(by_slide, key=lambda slide: by_slide[slide])[len(by_slide) // 2]
    one = next(h for h in held if slide_id in h.test.slide_ids)
    here = one.test.slide == one.test.slide_ids.index(slide_id)
    column = one.test.panel.index(gene)
    thumbnail = read_thumbnail(slide_path(store.path, slide_id))
    slide = store.slide(slide_id)
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
        thumbnail_um_per_px=slide.width_px * slide.mpp / thumbnail.shape[1],
    )


def _floats(values: Floats) -> Floats:
    return np.asarray(values, dtype=np.float64)
