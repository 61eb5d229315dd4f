"""Spots and counts brought together by barcode."""

from __future__ import annotations

import logging

import numpy as np

from ...store.errors import CohortError
from ..cohort import Measured, Spots
from .count_matrix import CountMatrix

log = logging.getLogger(__name__)

MAX_UNMATCHED = 0.10
"""Share of the spots, or of the count rows, that may lack a partner before it is worth a warning."""


def join(slide_id: str, spots: Spots, matrix: CountMatrix) -> Measured:
    """Keep what has both a position and counts, in the order of the spots; the log says how much was dropped.

    Where more than `MAX_UNMATCHED` of either was, it warns: a few are cut at the border of the tissue, many mean that
    the two files name their spots in different ways.

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
    background = sum(name in row_of for name in spots.background.tolist())
    _tell(slide_id, spots=len(rows), count_rows=len(matrix.barcode) - background, kept=len(kept))
    return Measured(spots.select(kept), matrix.counts[rows[kept]], matrix.genes)


def _tell(slide_id: str, *, spots: int, count_rows: int, kept: int) -> None:
    """Log what found no partner: as a warning, with the mend, where it is much."""
    dropped = (
        f"slide {slide_id}: {kept} spots with counts; dropped {spots - kept} spots without counts and "
        f"{count_rows - kept} count rows without a spot"
    )
    if max(1 - kept / spots, 1 - kept / count_rows) <= MAX_UNMATCHED:
        log.info("%s", dropped)
        return
    log.warning(
        "%s, of %d spots and %d count rows. Are the barcodes of one kind in both files, and both files of this slide? "
        "If so, and the rest lies beside the tissue, nothing is wrong.",
        dropped,
        spots,
        count_rows,
    )
