"""The search index of a feature key: look-alikes across the cohort, with slides and patients left out on request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints, Strings
from ..errors import StoreError
from ..naming import look_alike_warning
from ..spatial.neighbourhood import Neighbourhood
from .exact import checked_k, search_exact
from .flat import FlatIndex, Groups
from .ivf import IvfIndex, search_ivf
from .record import IndexRecord

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)

EXCLUDE = ("patient", "slide")


@dataclass(frozen=True)
class SearchIndex:
    """An index over standardised vectors.

    Attributes
    ----------
    flat
        The vectors; what an exact index searches.
    slide, row
        (n,) int32 slide number and row within its file; slides one after the other, rows in their order.
    center_um
        (n, 2) positions.
    shift, scale
        (n_slides, dim) float32 of the standardisation: part of the index, so that a query is treated alike.
    ivf
        Inverted lists that propose candidates, in an index of that kind.
    """

    record: IndexRecord
    flat: FlatIndex
    slide: NDArray[np.int32]
    row: NDArray[np.int32]
    center_um: Floats
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    ivf: IvfIndex | None = None

    def __len__(self) -> int:
        return len(self.slide)

    def rows_of(self, slide: int) -> NDArray[np.int64]:
        """Rows of the index that are those of a slide, by their number."""
        return np.arange(*np.searchsorted(self.slide, [slide, slide + 1]), dtype=np.int64)

    def distance(self, scores: Floats) -> Floats:
        """1 - cosine, or the negative inner product: small is near."""
        return 1.0 - scores if self.record.metric == "cosine" else 0.0 - scores  # not -scores: no negative zero


@dataclass(frozen=True)
class Hit:
    """One look-alike; `distance` is 1 - cosine over standardised features (the negative inner product with `ip`)."""

    rank: int
    slide_id: str
    patient_id: str
    patch: int
    x_um: float
    y_um: float
    distance: float


def groups_of(index: SearchIndex, rows: Ints, *, exclude: str | None) -> Groups | None:
    """What the rows (m,) of an index may not get as neighbours, besides themselves.

    Raises
    ------
    StoreError
        If `exclude` is unknown.
    """
    if exclude not in (None, *EXCLUDE):
        msg = f"exclude {exclude!r}: choose {' or '.join(EXCLUDE)}, or leave it out"
        raise StoreError(msg)
    if exclude is None:
        return None
    group = index.record.groups(exclude)[index.slide]
    return Groups(group, group[rows])


def search_warnings(index: SearchIndex, slide_id: str, *, exclude: str | None) -> tuple[str, ...]:
    """What limits the look-alikes of a slide, a sentence each: patients nobody named, and one image under two ids."""
    record, said = index.record, []
    unknown = record.unknown_patients
    if exclude == "patient" and slide_id in unknown:
        said.append(f"slide {slide_id}: its patient is unknown, so only the slide itself can be left out")
    elif exclude == "patient" and unknown:
        said.append(
            f"the patient of {len(unknown)} of {len(record.slide_ids)} slides is unknown ({', '.join(unknown[:3])}): "
            "they may be of the query's own, and are not left out"
        )
    alike = look_alike_warning(record.patient_ids) if exclude == "patient" else ""
    said += [alike] if alike else []
    number = record.slide_ids.index(slide_id)
    twins = [record.slide_ids[one] for copies in record.copies if number in copies for one in copies if one != number]
    if twins:
        so = f"left out with `--exclude {exclude}`" if exclude else "its own patches come back as look-alikes"
        said.append(f"slide {slide_id} is the same image as {', '.join(twins)}: {so}")
    return tuple(said)


def nearest_rows(
    index: SearchIndex, rows: Ints, k: int, *, exclude: str | None = None, exact: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest rows of the index to some of its own rows, which are never their own neighbours.

    Parameters
    ----------
    rows
        (m,) the queries.
    exclude
        "patient" or "slide": leave those of each query out too.
    exact
        Look at every row, whatever the kind of index.

    Returns
    -------
    tuple
        Scores (inner products) and rows, (m, k), best first, ties by row; -inf and -1 where there are fewer.
    """
    groups = groups_of(index, rows, exclude=exclude)
    queries = index.flat.vectors(rows)
    if index.ivf is None or exact:
        return search_exact(index.flat, queries, k, groups=groups, own=rows)
    assert index.record.ivf is not None
    nprobe = index.record.ivf.nprobe[exclude or "none"]
    return search_ivf(index.ivf, index.flat, queries, k, nprobe=nprobe, groups=groups, own=rows)


def warn_of_blanks(index: SearchIndex, rows: Ints) -> None:
    """Say which queries have no direction, such as the only patch of a slide that is standardised within itself."""
    blank = rows[~index.flat.vectors(rows).any(axis=1)]
    if len(blank):
        first = f"{index.record.slide_ids[index.slide[blank[0]]]}:{index.row[blank[0]]}"
        log.warning(
            "%d of %d patches (the first: %s) are zero in every dimension once standardised: all rows are equally far "
            "from them, and the first ones are returned",
            len(blank), len(rows), first,
        )  # fmt: skip


def hits(index: SearchIndex, scores: Floats, rows: Ints) -> tuple[Hit, ...]:
    """The neighbours of one query, from its scores and rows (k,)."""
    record, away = index.record, index.distance(np.asarray(scores))
    return tuple(
        Hit(
            rank=rank,
            slide_id=record.slide_ids[index.slide[at]],
            patient_id=record.patient_ids[index.slide[at]],
            patch=int(index.row[at]),
            x_um=float(index.center_um[at, 0]),
            y_um=float(index.center_um[at, 1]),
            distance=float(away[rank - 1]),
        )
        for rank, at in enumerate(rows.tolist(), 1)
        if at >= 0
    )


BLOCK = 4096
"""Patches asked about at a time."""


@dataclass(frozen=True)
class LookAlikes:
    """Neighbours in feature space of the m patches of a slide.

    Attributes
    ----------
    slide_id
        The slide that was asked about.
    neighbours
        `index` (m, k) rows of the search index; `distance` 1 - cosine (the negative inner product with `ip`).
    slide_ids, patient_ids
        (m, k) of each neighbour, empty where masked.
    row
        (m, k) int32 row of each neighbour on its slide, 0 where masked.
    center_um
        (m, k, 2) its position, NaN where masked.
    """

    slide_id: str
    neighbours: Neighbourhood
    slide_ids: Strings
    patient_ids: Strings
    row: NDArray[np.int32]
    center_um: Floats

    def frame(self) -> polars.DataFrame:
        """One line a neighbour, patch by patch, nearest first."""
        import polars

        patch, rank = np.nonzero(self.neighbours.mask)
        return polars.DataFrame(
            {
                "slide_id": np.full(len(patch), self.slide_id),
                "patch": patch.astype(np.int32),
                "rank": (rank + 1).astype(np.int32),
                "neighbour_slide_id": self.slide_ids[patch, rank],
                "neighbour_patient_id": self.patient_ids[patch, rank],
                "neighbour_patch": self.row[patch, rank],
                "x_um": self.center_um[patch, rank, 0],
                "y_um": self.center_um[patch, rank, 1],
                "distance": self.neighbours.distance[patch, rank],
            }
        )


def look_alikes(
    index: SearchIndex,
    slide: int,
    k: int,
    *,
    exclude: str | None,
    exact: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> LookAlikes:
    """The neighbours of all patches of slide number `slide` of an index, block by block.

    Parameters
    ----------
    progress
        Called with the slide, the patches done and their number.
    """
    queries, record = index.rows_of(slide), index.record
    width = checked_k(k, len(index))
    scores, rows = np.empty((len(queries), width)), np.empty((len(queries), width), dtype=np.int64)
    for start in range(0, len(queries), BLOCK):
        some = slice(start, start + BLOCK)
        scores[some], rows[some] = nearest_rows(index, queries[some], k, exclude=exclude, exact=exact)
        if progress is not None:
            progress(record.slide_ids[slide], min(start + BLOCK, len(queries)), len(queries))
    there, at = rows >= 0, np.maximum(rows, 0)
    names = [np.array(ids)[index.slide[at]] for ids in (record.slide_ids, record.patient_ids)]
    return LookAlikes(
        slide_id=record.slide_ids[slide],
        neighbours=Neighbourhood.where(there, rows, index.distance(scores)),
        slide_ids=np.where(there, names[0], ""),
        patient_ids=np.where(there, names[1], ""),
        row=np.where(there, index.row[at], 0).astype(np.int32),
        center_um=np.where(there[..., None], index.center_um[at], np.nan),
    )
