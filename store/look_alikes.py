"""Look-alikes of every patch of a slide: who they are, where they lie, how far away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Strings
from .nearest import checked_k
from .neighbours import Neighbourhood
from .search import SearchIndex, nearest_rows

if TYPE_CHECKING:
    import polars

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
