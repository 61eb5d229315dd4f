"""Rows of a slide in spatial blocks, each with a rim as wide as its head looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError

BLOCK_ROWS = 4096

SLACK_UM = 1.0
"""Beyond what a head looks at, so that rounding never leaves a neighbour out."""


def context_of(head: Any) -> float | None:
    """How far from a row a head looks in tissue: 0 for the row alone, None for the whole slide.

    Heads say so in `context_um`; one that does not is taken to look at rows alone.
    """
    found = getattr(head, "context_um", 0.0)
    return None if found is None else float(found)


def spatial_blocks(center_um: Floats, *, block_rows: int = BLOCK_ROWS) -> tuple[Ints, ...]:
    """Cut rows into compact blocks: halved along their longer side, at the median, until they are small enough.

    Parameters
    ----------
    center_um
        (n, 2) positions.
    block_rows
        Most rows of a block.

    Returns
    -------
    tuple
        Rows of each block, ascending; every row is in one. The same positions always give the same blocks.

    Raises
    ------
    HeadError
        If blocks of no row are wanted.
    """
    if block_rows < 1:
        msg = f"blocks of {block_rows} rows: give 1 or more"
        raise HeadError(msg)
    return tuple(_halved(center_um, np.arange(len(center_um)), block_rows))


def _halved(center_um: Floats, rows: Ints, block_rows: int) -> Iterator[Ints]:
    if not len(rows):
        return
    if len(rows) <= block_rows:
        yield rows
        return
    here = center_um[rows]
    axis = int(np.argmax(np.ptp(here, axis=0)))
    order = np.lexsort((rows, here[:, axis]))
    for half in (order[: len(rows) // 2], order[len(rows) // 2 :]):
        yield from _halved(center_um, np.sort(rows[half]), block_rows)


def with_rim(center_um: Floats, block: Ints, *, context_um: float | None) -> tuple[Ints, Ints]:
    """A block's rows and those near enough to matter to them, ascending, and the places of the block's own.

    Parameters
    ----------
    center_um
        (n, 2) positions of all rows of the slide.
    block
        Rows, ascending.
    context_um
        As of `context_of`.
    """
    if context_um == 0 or len(block) == len(center_um):
        return block, np.arange(len(block))
    if context_um is None:
        rows = np.arange(len(center_um))
    else:
        here, reach = center_um[block], context_um + SLACK_UM
        inside = (center_um >= here.min(axis=0) - reach) & (center_um <= here.max(axis=0) + reach)
        rows = np.flatnonzero(inside.all(axis=1))
    return rows, np.searchsorted(rows, block)
