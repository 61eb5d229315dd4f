"""Spots and counts brought together by barcode."""

from __future__ import annotations

import logging

import numpy as np

from ...store.errors import CohortError
from ..cohort import Measured, Spots
from .count_matrix import CountMatrix

log = logging.getLogger(__name__)


def join(slide_id: str, spots: Spots, matrix: CountMatrix) -> Measured:
    """Keep what has both a position and counts, in the order of the spots; the log says how much was dropped.

    Raises
    ------
    CohortError
        If nothing matches.
    """
    row_of = {name: row for row, name in enumerate(matrix.barcode.tolist())}
    rows = np.array([row_of.get(name, -1) for name in spots.barcode.tolist()], dtype=np.int64)
    kept = np.flatnonzero(rows >= 0)
    if not len(kept):
        msg = (
            f"slide {slide_id}: none of its {len(spots.barcode)} spots ({spots.barcode[0]}, ...) is among the "
            f"{len(matrix.barcode)} rows of its counts ({matrix.barcode[0]}, ...). Rows must be spots and columns "
            "genes, with the same barcodes in both files."
        )
        raise CohortError(msg)
    log.info(
        "slide %s: %d spots with counts; dropped %d spots without counts and %d count rows without a spot",
        slide_id,
        len(kept),
        len(rows) - len(kept),
        len(matrix.barcode) - len(kept),
    )
    array = None if spots.array is None else spots.array[kept]
    return Measured(Spots(spots.barcode[kept], spots.center_px[kept], array), matrix.counts[rows[kept]], matrix.genes)
