"""Memory for decoded tiles, used again and again."""

from __future__ import annotations

import numpy as np

from ..store.arrays import Pixels

SLAB_BYTES = 8 * 2**20


class TileMemory:
    """Room for tiles of one size, given out and taken back.

    It comes in slabs, which the system backs with large pages, and is not returned to it: making pages for a fresh
    tile costs a fifth of what decoding it costs.

    Parameters
    ----------
    width_px, height_px
        Of a tile.
    """

    def __init__(self, width_px: int, height_px: int) -> None:
        self._shape = (height_px, width_px, 3)
        self._free: list[Pixels] = []

    def take(self) -> Pixels:
        """Room for one tile (h, w, 3), its contents undefined."""
        if not self._free:
            size = int(np.prod(self._shape))
            self._free.extend(np.empty((max(1, SLAB_BYTES // size), *self._shape), dtype=np.uint8))
        return self._free.pop()

    def give_back(self, slot: Pixels) -> None:
        """Take room back that nothing reads any more."""
        self._free.append(slot)
