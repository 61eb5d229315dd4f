"""How many lists an inverted index must look at: measured against the exact answer, not guessed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Ints
from .index_record import IvfRecord
from .mixing import sample_rows
from .search import SearchIndex, groups_of, nearest_rows

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
