"""From a table to a search index, and slides added to one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from ..files.column import FeatureColumn, standardise
from ..table import Table
from .exact import flat_index, search_exact, unit_rows
from .flat import BLOCK_ROWS, FlatIndex, NumpyFlat
from .ivf import IVF_FROM, IvfIndex
from .record import KINDS, METRICS, STANDARDISE, BuildOptions, IndexRecord, IvfRecord, Mixing, mixing, sample_rows
from .search import SearchIndex, groups_of, nearest_rows
from .stored import StoredVectors

log = logging.getLogger(__name__)

RECALL_K = 10
QUERIES = 1024

TIE = 1e-9
"""Scores (of float64) closer than this are equal: of two copies of one patch either may be found."""

SURE = 1.645
"""Standard errors that the measured recall stays above the target: 19 of 20 other samples then reach it too."""


def choose_nprobe(index: SearchIndex, target: float) -> SearchIndex:
    """Set the number of lists to look at, for each kind of exclusion, to the least that reaches a recall.

    Exclusion needs its own number: where slides differ by stain, the nearest lists hold mostly the query's own slide.

    Parameters
    ----------
    target
        Recall@10, 0 to 1.
    """
    assert index.ivf is not None and index.record.ivf is not None
    queries = _sample(index)
    nprobe: dict[str, int] = {}
    recall: dict[str, float] = {}
    for name in ("none", "slide", "patient"):
        exclude = None if name == "none" else name
        groups = groups_of(index, queries, exclude=exclude)
        asked = queries if groups is None else queries[groups.possible() > 0]
        if not len(asked):  # one slide or patient: nothing is left to search, whatever the number
            nprobe[name], recall[name] = nprobe["none"], 1.0
            continue
        truth = nearest_rows(index, asked, RECALL_K, exclude=exclude, exact=True)[0]
        measure = _measure(index, asked, truth, name)
        nprobe[name] = least_nprobe(lambda n, measure=measure: lower_bound(measure(n)), index.ivf.nlist, target)  # type: ignore[misc]
        recall[name] = float(measure(nprobe[name]).mean())
        if recall[name] < target:
            log.warning(
                "%s: with all %d lists the recall (exclude %s) is %.4f, below the %.4f asked for: fp16 codes cannot "
                "tell the nearest rows apart. Build it with `--kind exact`.",
                index.record.name, index.ivf.nlist, name, recall[name], target,
            )  # fmt: skip
    record = replace(index.record.ivf, target=target, k=RECALL_K, queries=len(queries), nprobe=nprobe, recall=recall)
    return replace(index, record=replace(index.record, ivf=record))


def _sample(index: SearchIndex) -> NDArray[np.int64]:
    """Rows of every slide, or of some slides where there are more slides than queries."""
    rows = sample_rows(index.slide, QUERIES, least=1)
    most = 2 * QUERIES
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, size=most, replace=False))


def _measure(index: SearchIndex, queries: Ints, truth: Floats, name: str) -> Callable[[int], NDArray[np.float64]]:
    """Recall of each query as a function of the number of lists."""

    def measure(nprobe: int) -> NDArray[np.float64]:
        assert index.record.ivf is not None
        record: IvfRecord = replace(index.record.ivf, nprobe={name: nprobe})
        tried = replace(index, record=replace(index.record, ivf=record))
        found = nearest_rows(tried, queries, RECALL_K, exclude=None if name == "none" else name)[0]
        return recall_of(found, truth)

    return measure


def recall_of(found: Floats, truth: Floats) -> NDArray[np.float64]:
    """Share of the true neighbours of each query that were found, (m,).

    Parameters
    ----------
    found, truth
        (m, k) scores, best first, -inf where there are fewer. A row that scores as the last true neighbour counts.
    """
    there = np.isfinite(truth)
    last = np.where(there, truth, np.inf).min(axis=1, keepdims=True)  # (m, 1)
    last = np.where(np.isfinite(last), last, 0.0)  # nothing was to be found
    good = (found >= last - TIE * np.maximum(1.0, np.abs(last))).sum(axis=1)
    wanted = there.sum(axis=1)
    share = np.minimum(good, wanted) / np.maximum(wanted, 1)
    return np.where(wanted > 0, share, 1.0)  # where nothing was to be found, nothing was missed


def lower_bound(recall: Floats) -> float:
    """The mean over queries, less `SURE` standard errors."""
    return float(recall.mean() - SURE * recall.std() / math.sqrt(len(recall)))


def least_nprobe(bound: Callable[[int], float], nlist: int, target: float) -> int:
    """The least number of lists whose bound reaches the target: doubled until it does, then halved in between."""
    low, high = 0, 1
    while high < nlist and bound(high) < target:
        low, high = high, min(2 * high, nlist)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if bound(middle) >= target else (middle, high)
    return high


MIXING_K = 10
MIXING_QUERIES = 1000

COMPARED_ROWS, COMPARED_SLIDES = 2000, 50
"""Rows, and slides at most, among which standardisations are compared."""

SHIFTED = 0.5
"""Cohort standard deviations, root mean square over dimensions, from which the mean of added slides is warned about."""


def kind_for(kind: str, n: int) -> str:
    """The kind of index for n rows."""
    return kind if kind != "auto" else ("ivf" if n > IVF_FROM else "exact")


def check_options(options: BuildOptions, *, standardised: str) -> None:
    """Refuse what cannot be built.

    Raises
    ------
    StoreError
        If an option is unknown, or the recall no share.
    """
    for what, given, known in (
        ("standardise within", standardised, STANDARDISE),
        ("metric", options.metric, METRICS),
        ("kind of index", options.kind, KINDS),
    ):
        if given not in known:
            msg = f"{what} {given!r}: choose {', '.join(known[:-1])} or {known[-1]}"
            raise StoreError(msg)
    if not 0 < options.recall <= 1:
        msg = f"recall {options.recall}: give a share above 0, at most 1, such as 0.99"
        raise StoreError(msg)


def build_index(table: Table, record: IndexRecord, options: BuildOptions) -> SearchIndex:
    """Index every row of a table that has one feature key of vectors.

    Raises
    ------
    StoreError
        If the features are token grids.
    """
    column = table.columns[record.key]
    if column.parts[0].ndim != 2:
        msg = f"{record.key} holds token grids {column.parts[0].shape[1:]}; an index needs one vector a patch"
        raise StoreError(msg)
    shift, scale = _statistics(column, within=record.standardised)
    if record.standardised == "none":
        log.warning("%s: features are not standardised; the dimensions of largest mean rule the distance", record.key)
    if record.standardised == "cohort":
        record = replace(record, statistics_from=record.slide_ids)
    index = _empty(table, record, shift=shift, scale=scale)
    if record.kind == "ivf":
        assert isinstance(index.flat, StoredVectors)
        ivf = IvfIndex.train(index.flat)
        settings = IvfRecord(ivf.nlist, options.recall, 0, 0, trained_rows=len(table))
        index = replace(index, ivf=ivf, record=replace(record, ivf=settings))
    index = _filled(index, options, old=None)
    assert index.record.mixing is not None
    return replace(index, record=replace(index.record, mixing=_compared(index, column, index.record.mixing)))


def add_slides(old: SearchIndex, table: Table, record: IndexRecord, options: BuildOptions) -> SearchIndex:
    """Add the slides of a table that an index lacks; the table begins with the slides of the index, in its order.

    Statistics of a cohort stay those of the slides that they were computed from, so that what is there need not
    change; slides that lie far from them are warned about.
    """
    column = table.columns[record.key]
    new = np.arange(len(old.record.slide_ids), len(record.slide_ids))
    record = replace(record, statistics_from=old.record.statistics_from, ivf=old.record.ivf)
    if record.standardised == "cohort":
        shift, scale = (np.repeat(a[:1], len(record.slide_ids), axis=0) for a in (old.shift, old.scale))
        _warn_of_shift(column.select(new), shift[0], scale[0], record)
    else:
        added = _statistics(column.select(new), within=record.standardised)
        shift, scale = (np.concatenate([a, b]) for a, b in zip((old.shift, old.scale), added, strict=True))
    if record.ivf is not None and len(table) > 2 * record.ivf.trained_rows:
        log.warning("%s has more than doubled since its lists were laid out: rebuild it", record.name)
    return _filled(replace(_empty(table, record, shift=shift, scale=scale), ivf=old.ivf), options, old=old)


def _statistics(column: FeatureColumn, *, within: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and scale (n_slides, dim)."""
    if within == "none":
        shape = (len(column.parts), column.dim)
        return np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=np.float32)
    done = standardise(column, within=within)
    assert done.shift is not None and done.scale is not None
    return done.shift, done.scale


def _empty(table: Table, record: IndexRecord, *, shift: NDArray[np.float32], scale: NDArray[np.float32]) -> SearchIndex:
    """An index that reads its vectors from the feature files."""
    column = replace(table.columns[record.key], shift=shift, scale=scale)
    vectors = StoredVectors(column, table.slide, table.row, unit=record.metric == "cosine")
    return SearchIndex(record, vectors, table.slide, table.row, table.center_um, shift, scale)


def _filled(index: SearchIndex, options: BuildOptions, *, old: SearchIndex | None) -> SearchIndex:
    """Give an index its vectors, its settings and its mixing report."""
    vectors, start = index.flat, 0 if old is None else len(old)
    assert isinstance(vectors, StoredVectors)
    if index.ivf is None:
        base = np.empty((len(index), vectors.column.dim), dtype=np.float32)
        if old is not None:
            base[:start] = old.flat.vectors(np.arange(start))
        for first in range(start, len(index), BLOCK_ROWS):
            base[first : first + BLOCK_ROWS] = vectors.block(first, first + BLOCK_ROWS)
        longest = _longest(NumpyFlat(base), unit=vectors.unit)
        flat = flat_index(base, longest=longest, device=options.device)
        index = replace(index, flat=flat, record=replace(index.record, longest=longest))
    else:
        index.ivf.add(vectors, start=start)
        longest = _longest(vectors, unit=vectors.unit)
        flat = StoredVectors(vectors.column, index.slide, index.row, unit=vectors.unit, longest=longest)
        index = replace(index, flat=flat, record=replace(index.record, longest=longest))
        index = choose_nprobe(index, options.recall)
    least = min(4, max(1, 4 * MIXING_QUERIES // len(index.record.slide_ids)))  # many slides need few patches each
    queries = sample_rows(index.slide, MIXING_QUERIES, least=least)
    found = nearest_rows(index, queries, MIXING_K)[1]
    record = index.record
    report = mixing(found, queries, slide=index.slide, slide_ids=record.slide_ids, patient_ids=record.patient_ids)
    return replace(index, record=replace(record, mixing=report))


def _compared(index: SearchIndex, column: FeatureColumn, report: Mixing) -> Mixing:
    """Add how far slides stand apart under other standardisations: the advice of which to take is then measured.

    Some rows of some slides are searched among themselves, the same ones each time.
    """
    slides = np.flatnonzero(np.bincount(index.slide) > 0)
    if len(slides) < 2:
        return report
    rng = np.random.default_rng(0)
    slides = np.sort(rng.permutation(slides)[:COMPARED_SLIDES])
    parts = [index.rows_of(int(slide)) for slide in slides]
    share = min(1.0, COMPARED_ROWS / sum(map(len, parts)))
    rows = np.concatenate([rng.permutation(part)[: int(np.ceil(share * len(part)))] for part in parts])
    slide, record, found = index.slide[rows], index.record, {}
    for within in dict.fromkeys((record.standardised, "cohort", "slide")):
        shift, scale = _statistics(column, within=within)
        values = replace(column, shift=shift, scale=scale).gather(slide, index.row[rows])
        unit = record.metric == "cosine"
        values = unit_rows(values) if unit else values
        flat = NumpyFlat(values, longest=_longest(NumpyFlat(values), unit=unit))
        near = search_exact(flat, values, MIXING_K, own=np.arange(len(rows)))[1]
        names = record.slide_ids
        among = mixing(near, np.arange(len(rows)), slide=slide, slide_ids=names, patient_ids=names)
        found[within] = among.slide.separation
    return replace(report, compared=found, compared_rows=len(rows))


def _longest(vectors: FlatIndex, *, unit: bool) -> float:
    """Length of the longest vector, with room for its rounding."""
    if unit:
        return 1.0
    longest = 0.0
    for start in range(0, vectors.ntotal, BLOCK_ROWS):
        rows = vectors.vectors(np.arange(start, min(start + BLOCK_ROWS, vectors.ntotal)))
        longest = max(longest, float(np.einsum("ij,ij->i", rows, rows).max()))
    return float(np.sqrt(longest)) * (1 + 1e-6)


def _warn_of_shift(new: FeatureColumn, shift: Floats, scale: Floats, record: IndexRecord) -> None:
    for slide_id, part in zip(record.slide_ids[-len(new.parts) :], new.parts, strict=True):
        if not len(part):
            continue
        mean = (np.asarray(part, dtype=np.float64).mean(axis=0) - shift) * scale
        away = float(np.sqrt((mean[scale > 0] ** 2).mean())) if (scale > 0).any() else 0.0
        if away > SHIFTED:
            log.warning(
                "slide %s lies %.2f standard deviations from the %d slides that standardise the index of %s (more "
                "than %.1f): build it again with `--rebuild`, which also measures `--standardise slide`",
                slide_id, away, len(record.statistics_from), record.key, SHIFTED,
            )  # fmt: skip
