"""From predictions beside the truth to what the report draws of each head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import StoreError
from ...store.files.schema import slide_path
from ...store.files.slide import read_thumbnail
from ...store.store import Store
from ...store.table import Table
from ..protocols.protocol import HEADLINE_FIELD
from ..protocols.scores.aggregate import ScoredFold
from ..protocols.scores.scores import mean_of_defined
from .comparison import Calibration, GeneMap, HeadDetail, Record
from .head_spec import Line, line_of_record
from .numbers import number

SHOWN_BINS = 12
NARROW_BINS = 4096

Blocks = Callable[[], Iterable[tuple[Floats, Floats]]]
"""Starts a reading of all values: (prediction, measured) of one shape, block by block."""


def calibration(blocks: Blocks, *, bins: int = SHOWN_BINS) -> Calibration:
    """Return what was measured where so much was predicted.

    Parameters
    ----------
    blocks
        Called twice; it must give the same values each time.
    bins
        How many bins to make at most; fewer where predictions are the same.
    """
    low, high = _range(blocks)
    if not low < high:
        return _constant(blocks)
    sums = np.zeros((3, NARROW_BINS))  # values, predicted, measured
    scale, moments = NARROW_BINS / (high - low), np.zeros(3)
    shift = _means(blocks)
    for prediction, measured in blocks():
        p, m = (np.asarray(side, dtype=np.float64).ravel() for side in (prediction, measured))
        narrow = np.minimum(((p - low) * scale).astype(np.int64), NARROW_BINS - 1)
        for row, weights in enumerate((None, p, m)):
            sums[row] += np.bincount(narrow, weights=weights, minlength=NARROW_BINS)
        x, y = p - shift[0], m - shift[1]
        moments += (x @ x, x @ y, y @ y)
    return _merged(sums, slope=float(moments[1] / moments[0]), bins=bins)


def slide_centred(values: Floats, slide: Ints) -> Iterable[Floats]:
    """Yield, slide by slide, the deviations of each column from its mean on the slide, float64."""
    for one in np.unique(slide):
        here = np.asarray(values[slide == one], dtype=np.float64)
        yield here - here.mean(axis=0)


def _range(blocks: Blocks) -> tuple[float, float]:
    ends = [(float(np.min(p)), float(np.max(p))) for p, _ in blocks() if np.size(p)]
    if not ends:
        return 0.0, 0.0
    return min(low for low, _ in ends), max(high for _, high in ends)


def _means(blocks: Blocks) -> tuple[float, float]:
    """Mean prediction and mean measured value: moments about them keep the digits that sums of squares lose."""
    n, total = 0, np.zeros(2)
    for prediction, measured in blocks():
        n += np.size(prediction)
        total += np.sum(prediction, dtype=np.float64), np.sum(measured, dtype=np.float64)
    return float(total[0] / max(n, 1)), float(total[1] / max(n, 1))


def _constant(blocks: Blocks) -> Calibration:
    """One bin, without a slope; none where there are no values."""
    n = sum(np.size(prediction) for prediction, _ in blocks())
    predicted, measured = _means(blocks)
    filled = 1 if n else 0
    return Calibration(
        predicted=np.array([predicted][:filled]),
        measured=np.array([measured][:filled]),
        values=np.array([n][:filled], dtype=np.int64),
        slope=float("nan"),
    )


def _merged(sums: Floats, *, slope: float, bins: int) -> Calibration:
    """Merge narrow bins (3, NARROW_BINS) to at most so many of about as many values each."""
    used = sums[:, sums[0] > 0]
    middle = np.cumsum(used[0]) - used[0] / 2
    _, group = np.unique((middle * bins / used[0].sum()).astype(np.int64), return_inverse=True)
    n, predicted, measured = (np.bincount(group, weights=row) for row in used)
    return Calibration(predicted / n, measured / n, np.round(n).astype(np.int64), slope)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of one head on the test slides of one fold."""

    test: Table
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]
    scored: ScoredFold


def gene_maps(
    store: Store,
    records: Sequence[Record],
    held_out: Mapping[Line, Sequence[HeldOutPredictions]],
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


def _scores_by_gene(held: Sequence[HeldOutPredictions]) -> dict[str, dict[str, float]]:
    """Gene -> slide -> correlation where it is defined."""
    scores: dict[str, dict[str, float]] = {}
    for one in held:
        for slide, row in zip(one.scored.score.slides, one.scored.score.pearson, strict=True):
            for gene, pcc in zip(one.test.panel, row, strict=True):
                if np.isfinite(pcc):
                    scores.setdefault(gene, {})[one.test.slide_ids[slide]] = float(pcc)
    return scores


def _map(
    store: Store, held: Sequence[HeldOutPredictions], gene: str, by_slide: dict[str, float], *, role: str, head: str
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


def head_details(held_out: Mapping[Line, Sequence[HeldOutPredictions]]) -> tuple[HeadDetail, ...]:
    """Return the detail of every head of a comparison.

    Parameters
    ----------
    held_out
        Predictions of each line on all folds, as `Results.held_out`.
    """
    return tuple(head_detail(line, held) for line, held in held_out.items() if held)


def head_detail(line: Line, held: Sequence[HeldOutPredictions]) -> HeadDetail:
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


def _by_gene(held: Sequence[HeldOutPredictions], genes: Sequence[str]) -> Floats:
    """Within-slide Pearson (n_genes, n_slides), NaN where a gene is not in the fold's panel or not defined."""
    position = {gene: i for i, gene in enumerate(genes)}
    columns = []
    for one in held:
        part = np.full((len(genes), len(one.scored.score.slides)), np.nan)
        part[[position[gene] for gene in one.test.panel]] = one.scored.score.pearson.T
        columns.append(part)
    return np.concatenate(columns, axis=1)


def _centred(held: Sequence[HeldOutPredictions]) -> Iterable[tuple[Floats, Floats]]:
    for one in held:
        slide = one.test.slide
        yield from zip(slide_centred(one.prediction, slide), slide_centred(one.truth, slide), strict=True)
