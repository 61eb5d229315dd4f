"""In which order patches are read: in compact blocks, so that patches that share tiles come together.

The rows of a store keep the order of the patch set; only the reading goes in blocks. Spots come in the order of
their barcodes, which is no order in space, and grids in rows as wide as the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from ..store.arrays import Bools, Floats, Ints
from .reading import Field, regions_of

BLOCK_PX = 2048
"""Side of a block, level-0 pixels: with the fields around it, its canvases take some 15 to 50 MB."""


class Tiled(Protocol):
    """What this file needs of a slide."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level in its own pixels."""
        ...

    @property
    def tile_px(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the native tiles of each level."""
        ...


@dataclass(frozen=True)
class Need:
    """Tiles of one level that a block needs.

    Attributes
    ----------
    column, row
        First column and row of the box of tiles that holds them.
    wanted
        (rows, columns) of that box: which tiles are needed.
    """

    level: int
    column: int
    row: int
    wanted: Bools

    def tiles(self) -> list[tuple[int, int]]:
        """(column, row) of each tile that is needed, row by row."""
        return [(self.column + int(c), self.row + int(r)) for r, c in np.argwhere(self.wanted)]


@dataclass(frozen=True)
class Block:
    """Patches at the visiting positions [start, stop), and the tiles they need."""

    start: int
    stop: int
    needs: tuple[Need, ...]


def visiting_order(centers_px: Floats, *, block_px: float) -> Ints:
    """Order in which patches are visited: block by block, in bands along the shorter side of what is covered.

    Tiles that two bands share are kept meanwhile, so short bands keep few. Within a block the order is that of the
    patch set.

    Parameters
    ----------
    centers_px
        (n, 2) level-0 pixels, x then y.
    block_px
        Side of a block, level-0 pixels.

    Returns
    -------
    Ints
        (n,) int64, the row at each position.
    """
    cells = block_cells(centers_px, block_px=block_px)
    extent = np.ptp(centers_px, axis=0) if len(centers_px) else np.zeros(2)
    along, across = (0, 1) if extent[0] <= extent[1] else (1, 0)
    return np.lexsort(
        (cells[:, along], cells[:, across])
    )  # the last key is the first to sort by; ties keep their order


def block_cells(centers_px: Floats, *, block_px: float) -> Ints:
    """(n, 2) int64 column and row of the block that each centre lies in."""
    cells: Ints = np.floor(centers_px / block_px).astype(np.int64)
    return cells


def plan_blocks(
    centers_px: Floats, fields: Sequence[Field], slide: Tiled, *, block_px: float, start: int = 0
) -> list[Block]:
    """Cut a visit into blocks.

    Parameters
    ----------
    centers_px
        (n, 2) level-0 pixels, in visiting order.
    start
        Position to begin at; what lies before is not read again.
    """
    if start >= len(centers_px):
        return []
    cells = block_cells(centers_px, block_px=block_px)[start:]
    changes = np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1
    bounds = np.concatenate([[0], changes, [len(cells)]]) + start
    spans = [(field.level, _tile_spans(field, centers_px, slide)) for field in fields]
    return [
        Block(first, last, _needs([(level, span[first:last]) for level, span in spans]))
        for first, last in pairwise(bounds.tolist())
    ]


def _tile_spans(field: Field, centers_px: Floats, slide: Tiled) -> Ints:
    """(n, 4) first column, first row, last column, last row of the tiles under each region, inside the level."""
    regions, _ = regions_of(field, centers_px)
    last = np.array(slide.level_dimensions[field.level]) - 1
    tile = np.array(slide.tile_px[field.level])
    low = np.clip(regions, 0, last) // tile
    high = np.clip(regions + field.region_px - 1, 0, last) // tile
    return np.concatenate([low, high], axis=1)


def _needs(spans: Sequence[tuple[int, Ints]]) -> tuple[Need, ...]:
    """One need for each level, over all fields that read it."""
    by_level: dict[int, list[Ints]] = {}
    for level, span in spans:
        by_level.setdefault(level, []).append(span)
    needs = []
    for level, parts in sorted(by_level.items()):
        span = np.unique(np.concatenate(parts), axis=0)
        column, row = span[:, 0].min(), span[:, 1].min()
        wanted = np.zeros((span[:, 3].max() - row + 1, span[:, 2].max() - column + 1), dtype=np.bool_)
        for c0, r0, c1, r1 in (span - [column, row, column, row]).tolist():
            wanted[r0 : r1 + 1, c0 : c1 + 1] = True
        needs.append(Need(level, int(column), int(row), wanted))
    return tuple(needs)
