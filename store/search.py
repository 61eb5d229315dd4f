"""The search index of a feature key: look-alikes across the cohort, with slides and patients left out on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Bools, Floats
from .errors import StoreError
from .nearest import FlatIndex, flat_index, search_exact, unit_rows
from .table import FeatureColumn, Table, standardise

EXCLUDE = ("patient", "slide")


@dataclass(frozen=True)
class IndexRecord:
    """What an index is made of.

    Attributes
    ----------
    standardised
        "cohort" or "slide": whose statistics z-scored the rows before they were scaled to length one.
    slide_ids, patient_ids, patches_digests, mpp
        (n_slides,) in the order of the rows: what a search compares with the store of its own day.
    """

    name: str
    key: str
    patches: str
    fingerprint: str
    standardised: str
    metric: str
    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    patches_digests: tuple[str, ...]
    mpp: tuple[float, ...]


@dataclass(frozen=True)
class SearchIndex:
    """An exact index over standardised unit vectors.

    Attributes
    ----------
    slide, row
        (n,) int32 slide number and row within its file.
    center_um
        (n, 2) positions.
    shift, scale
        (n_slides, dim) float32 of the standardisation: part of the index, so that a query is treated alike.
    """

    record: IndexRecord
    flat: FlatIndex
    slide: NDArray[np.int32]
    row: NDArray[np.int32]
    center_um: Floats
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """One look-alike; `distance` is 1 - cosine over standardised features."""

    rank: int
    slide_id: str
    patient_id: str
    patch: int
    x_um: float
    y_um: float
    distance: float


def build_index(table: Table, record: IndexRecord) -> SearchIndex:
    """Index every row of a table that has one feature key of vectors.

    Raises
    ------
    StoreError
        If the features are token grids.
    """
    column = standardise(table.columns[record.key], within=record.standardised)
    if column.parts[0].ndim != 2:
        msg = f"{record.key} holds token grids {column.parts[0].shape[1:]}; an index needs one vector a patch"
        raise StoreError(msg)
    vectors = unit_rows(column.gather(table.slide, table.row))
    assert column.shift is not None and column.scale is not None
    return SearchIndex(record, flat_index(vectors), table.slide, table.row, table.center_um, column.shift, column.scale)


def query_vectors(index: SearchIndex, column: FeatureColumn, rows: NDArray[np.int32], *, slide: int) -> Floats:
    """Rows of slide number `slide` of the index, standardised as the index is, (m, dim) of length one."""
    slides = np.full(len(rows), slide, dtype=np.int32)
    raw = column.raw(np.zeros(len(rows), dtype=np.int32), rows).astype(np.float32)
    return unit_rows((raw - index.shift[slides]) * index.scale[slides])


def allowed_rows(index: SearchIndex, *, slide: int, patch: int, exclude: str | None) -> Bools:
    """Which rows may answer: never the query itself, nor its slide or patient where these are excluded.

    Raises
    ------
    StoreError
        If `exclude` is unknown.
    """
    if exclude not in (None, *EXCLUDE):
        msg = f"exclude {exclude!r}: choose {' or '.join(EXCLUDE)}, or leave it out"
        raise StoreError(msg)
    own: Bools = index.slide == slide
    if exclude == "slide":
        return np.asarray(~own, dtype=np.bool_)
    if exclude == "patient":
        patients = np.array(index.record.patient_ids)
        return np.asarray((patients != patients[slide])[index.slide], dtype=np.bool_)
    return np.asarray(~(own & (index.row == patch)), dtype=np.bool_)


def find(index: SearchIndex, query: Floats, k: int, *, allowed: Bools) -> tuple[Hit, ...]:
    """The k best hits of one unit vector (dim,), best first, ties by row."""
    scores, rows = search_exact(index.flat, np.asarray(query, dtype=np.float32)[None], k, allowed=allowed)
    record = index.record
    return tuple(
        Hit(
            rank=rank,
            slide_id=record.slide_ids[index.slide[at]],
            patient_id=record.patient_ids[index.slide[at]],
            patch=int(index.row[at]),
            x_um=float(index.center_um[at, 0]),
            y_um=float(index.center_um[at, 1]),
            distance=float(1.0 - score),
        )
        for rank, (score, at) in enumerate(zip(scores[0], rows[0], strict=True), 1)
        if at >= 0
    )
