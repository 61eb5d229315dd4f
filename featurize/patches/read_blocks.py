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

from ...store.arrays import Floats, Ints
from .field import PatchField, regions_of

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
    box_px
        Left, top, right and bottom of all that patches read, in the level's pixels, inside the level.
    tiles
        (column, row) of each tile, row by row.
    """

    level: int
    box_px: tuple[int, int, int, int]
    tiles: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ReadBlock:
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
    centers_px: Floats, fields: Sequence[PatchField], slide: Tiled, *, block_px: float, start: int = 0
) -> list[ReadBlock]:
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
    boxes = [(field.level, _region_boxes(field, centers_px, slide)) for field in fields]
    return [
        ReadBlock(first, last, _needs([(level, box[first:last]) for level, box in boxes], slide))
        for first, last in pairwise(bounds.tolist())
    ]


def _region_boxes(field: PatchField, centers_px: Floats, slide: Tiled) -> Ints:
    """(n, 4) left, top, right and bottom (inclusive) of the part of each region inside the level."""
    regions, _ = regions_of(field, centers_px)
    last = np.array(slide.level_dimensions[field.level]) - 1
    return np.concatenate([np.clip(regions, 0, last), np.clip(regions + field.region_px - 1, 0, last)], axis=1)


def _needs(boxes: Sequence[tuple[int, Ints]], slide: Tiled) -> tuple[Need, ...]:
    """One need for each level, over all fields that read it."""
    by_level: dict[int, list[Ints]] = {}
    for level, box in boxes:
        by_level.setdefault(level, []).append(box)
    needs = []
    for level, parts in sorted(by_level.items()):
        box = np.concatenate(parts)  # (m, 4)
        spans = np.unique(box // np.tile(slide.tile_px[level], 2), axis=0)  # first and last column and row of tiles
        column, row = spans[:, 0].min(), spans[:, 1].min()
        wanted = np.zeros((spans[:, 3].max() - row + 1, spans[:, 2].max() - column + 1), dtype=np.bool_)
        for c0, r0, c1, r1 in (spans - [column, row, column, row]).tolist():
            wanted[r0 : r1 + 1, c0 : c1 + 1] = True
        left, top = box[:, :2].min(axis=0).tolist()
        right, bottom = (box[:, 2:].max(axis=0) + 1).tolist()
        tiles = np.argwhere(wanted)[:, ::-1] + [column, row]  # (t, 2) column, row
        needs.append(Need(level, (left, top, right, bottom), tuple(map(tuple, tiles.tolist()))))
    return tuple(needs)
