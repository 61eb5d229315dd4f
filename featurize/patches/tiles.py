"""Native tiles onto canvases: each tile is decoded once, for all patches and views of all blocks that need it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...store.arrays import Pixels
from .field import inside, mirrored
from .read_blocks import Need, ReadBlock, Tiled
from .readers import DECODE, READ, Readers

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


KEEP_BYTES = 256 * 2**20
"""Decoded tiles kept for later blocks. 250 MB hold what two bands share on a slide of 150,000 px."""

TILES_A_JOB = 8

TileKey = tuple[int, int, int]  # level, column, row
Tiles = Future[dict[TileKey, Pixels]]


class TileSource(Tiled, Protocol):
    """A slide, as far as its tiles go; see `tissuary.featurize.slides.slide.Slide`."""

    def fetch_tile(self, level: int, column: int, row: int) -> Any:
        """Compressed bytes of a tile."""
        ...

    def decode_tile(self, level: int, column: int, row: int, fetched: Any, *, out: Pixels | None = None) -> Pixels:
        """Pixels (h, w, 3) of a tile, cut at the level's border."""
        ...


class Canvas:
    """The pixels of a box of tiles; what no patch needs is left undefined.

    Parameters
    ----------
    buffer
        Memory for at least the box's pixels. It is used again by later canvases: touching fresh memory for the first
        time costs as much as decoding.
    """

    def __init__(self, slide: Tiled, need: Need, buffer: Pixels) -> None:
        self._level_px = slide.level_dimensions[need.level]
        self._tile_px = slide.tile_px[need.level]
        self._left, self._top, right, bottom = need.box_px
        self.buffer = buffer
        shape = (bottom - self._top, right - self._left, 3)
        self._pixels = buffer[: math.prod(shape)].reshape(shape)

    def paste(self, column: int, row: int, tile: Pixels) -> None:
        """Put what is needed of a tile in its place."""
        x, y = column * self._tile_px[0] - self._left, row * self._tile_px[1] - self._top
        left, top = max(x, 0), max(y, 0)
        cut = tile[top - y : self._pixels.shape[0] - y, left - x : self._pixels.shape[1] - x]
        self._pixels[top : top + cut.shape[0], left : left + cut.shape[1]] = cut

    def region(self, left: int, top: int, side: int) -> Pixels:
        """Square region (side, side, 3) of the level: a view, or mirrored where it leaves the level."""
        width, height = self._level_px
        (x0, x1), (y0, y1) = inside(left, left + side, width), inside(top, top + side, height)
        pixels = self._pixels[y0 - self._top : y1 - self._top, x0 - self._left : x1 - self._left]
        return mirrored(pixels, left=x0 - left, top=y0 - top, side=side)


@dataclass(frozen=True)
class OpenBlock:
    """A block whose tiles are on their way.

    Attributes
    ----------
    canvases
        By level.
    jobs
        Those that fill the canvases.
    slots
        Memory of tiles, by level, that nobody needs once the block is closed.
    """

    canvases: dict[int, Canvas]
    jobs: list[Future[Any]]
    slots: list[tuple[int, Pixels]]

    @property
    def nbytes(self) -> int:
        """Memory of the canvases."""
        return sum(canvas.buffer.nbytes for canvas in self.canvases.values())

    def canvas(self, level: int) -> Canvas:
        """Wait until all is there."""
        for job in self.jobs:
            job.result()
        return self.canvases[level]


class TileReader:
    """Brings the tiles of blocks, asked for one after another, onto canvases.

    Which blocks need a tile is known beforehand, so a decoded tile is kept exactly as long as one of them is still
    to come. Beyond `keep_bytes` the tiles whose turn comes last are let go, and decoded again then.
    """

    def __init__(
        self,
        slide: TileSource,
        blocks: Sequence[ReadBlock],
        *,
        readers: Readers,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._slide, self._blocks, self._readers = slide, blocks, readers
        self._keep_bytes = keep_bytes
        self._uses: dict[TileKey, list[int]] = {}  # blocks that need a tile, the next one last
        for index in range(len(blocks) - 1, -1, -1):
            for need in blocks[index].needs:
                for column, row in need.tiles:
                    self._uses.setdefault((need.level, column, row), []).append(index)
        self._kept: dict[TileKey, tuple[Tiles, Pixels]] = {}
        self._kept_bytes = 0
        self._memory = {level: TileMemory(*slide.tile_px[level]) for level in {key[0] for key in self._uses}}
        self._buffer_px: dict[int, int] = {}  # of the largest canvas of each level
        for need in (need for block in blocks for need in block.needs):
            left, top, right, bottom = need.box_px
            size = (right - left) * (bottom - top)
            self._buffer_px[need.level] = max(self._buffer_px.get(need.level, 0), size)
        self._spare: dict[int, list[Pixels]] = {level: [] for level in self._buffer_px}

    def open_block(self, index: int) -> OpenBlock:
        """Submit the jobs that fill the canvases of a block.

        Jobs that paste wait for jobs that decode, which were submitted before them: they are running or done by then,
        so nothing waits for ever.
        """
        opened = OpenBlock({}, [], [])
        for need in self._blocks[index].needs:
            level = need.level
            canvas = opened.canvases[level] = Canvas(self._slide, need, self._buffer(level))
            keys = [(level, column, row) for column, row in need.tiles]
            for key in keys:
                self._uses[key].pop()
            known = {key: self._kept[key][0] for key in keys if key in self._kept}
            fresh = [key for key in keys if key not in known]
            for start in range(0, len(fresh), TILES_A_JOB):
                self._submit(opened, canvas, fresh[start : start + TILES_A_JOB])
            if known:
                opened.jobs.append(self._readers.submit(_paste_kept, canvas, known))
            for key in known:
                if not self._uses[key]:
                    self._forget(key, opened)
        self._keep_within_limit(opened)
        return opened

    def close_block(self, opened: OpenBlock) -> None:
        """Take the memory of a block back, once nothing reads it any more; blocks are closed in their order."""
        for level, canvas in opened.canvases.items():
            self._spare[level].append(canvas.buffer)
        for level, slot in opened.slots:
            self._memory[level].give_back(slot)

    def _submit(self, opened: OpenBlock, canvas: Canvas, keys: Sequence[TileKey]) -> None:
        """Have tiles decoded: those of later blocks into memory of their own, the others one after another into one."""
        level = keys[0][0]
        slots = {key: self._memory[level].take() for key in keys if self._uses[key]}
        scratch = self._memory[level].take()
        opened.slots.append((level, scratch))
        job = self._readers.submit(self._decode, canvas, keys, slots, scratch)
        opened.jobs.append(job)
        for key, slot in slots.items():
            self._kept[key] = (job, slot)
            self._kept_bytes += slot.nbytes

    def _buffer(self, level: int) -> Pixels:
        if self._spare[level]:
            return self._spare[level].pop()
        return np.empty(self._buffer_px[level] * 3, dtype=np.uint8)

    def _decode(
        self, canvas: Canvas, keys: Sequence[TileKey], slots: dict[TileKey, Pixels], scratch: Pixels
    ) -> dict[TileKey, Pixels]:
        reading = decoding = 0.0
        kept = {}
        for key in keys:
            begun = time.perf_counter()
            fetched = self._slide.fetch_tile(*key)
            there = time.perf_counter()
            tile = self._slide.decode_tile(*key, fetched, out=slots.get(key, scratch))
            canvas.paste(key[1], key[2], tile)
            reading, decoding = reading + there - begun, decoding + time.perf_counter() - there
            if key in slots:
                kept[key] = tile
        self._readers.stages.add(READ, reading, len(keys))
        self._readers.stages.add(DECODE, decoding, len(keys))
        return kept

    def _forget(self, key: TileKey, opened: OpenBlock) -> None:
        """Let a tile go when the block is closed: until then jobs may still paste it."""
        _, slot = self._kept.pop(key)
        self._kept_bytes -= slot.nbytes
        opened.slots.append((key[0], slot))

    def _keep_within_limit(self, opened: OpenBlock) -> None:
        if self._kept_bytes <= self._keep_bytes:
            return
        for key in sorted(self._kept, key=lambda key: self._uses[key][-1], reverse=True):
            self._forget(key, opened)
            if self._kept_bytes <= self._keep_bytes:
                return


def _paste_kept(canvas: Canvas, kept: dict[TileKey, Tiles]) -> None:
    """Paste tiles that were decoded for an earlier block."""
    for key, job in kept.items():
        canvas.paste(key[1], key[2], job.result()[key])
