"""Native tiles onto canvases: each tile is decoded once, for all patches and views of all blocks that need it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..store.arrays import Pixels
from .reading import inside, mirrored
from .stages import DECODE, READ, Stages
from .visit import Block, Need, Tiled

KEEP_BYTES = 256 * 2**20
"""Decoded tiles kept for later blocks. 250 MB hold what two bands share on a slide of 150,000 px."""

TILES_A_JOB = 8

TileKey = tuple[int, int, int]  # level, column, row


class TileSource(Tiled, Protocol):
    """A slide, as far as its tiles go; see `tissuary.featurize.slide.Slide`."""

    def fetch_tile(self, level: int, column: int, row: int) -> Any:
        """Compressed bytes of a tile."""
        ...

    def decode_tile(self, level: int, column: int, row: int, fetched: Any) -> Pixels:
        """Pixels (h, w, 3) of a tile, cut at the level's border."""
        ...


class Canvas:
    """The pixels of a box of tiles; what no patch needs is left undefined.

    Parameters
    ----------
    spare
        Buffers of canvases that are no longer used: fresh memory costs more to touch than a tile to decode.
    """

    def __init__(self, slide: Tiled, need: Need, spare: list[Pixels]) -> None:
        self._level_px = slide.level_dimensions[need.level]
        self._tile_px = slide.tile_px[need.level]
        self._left, self._top = need.column * self._tile_px[0], need.row * self._tile_px[1]
        rows, columns = need.wanted.shape
        width = min(columns * self._tile_px[0], self._level_px[0] - self._left)
        height = min(rows * self._tile_px[1], self._level_px[1] - self._top)
        size = height * width * 3
        fitting = next((number for number, buffer in enumerate(spare) if buffer.size >= size), None)
        self.buffer = np.empty(size, dtype=np.uint8) if fitting is None else spare.pop(fitting)
        self._pixels = self.buffer[:size].reshape(height, width, 3)

    def paste(self, column: int, row: int, tile: Pixels) -> None:
        """Put a tile in its place."""
        x, y = column * self._tile_px[0] - self._left, row * self._tile_px[1] - self._top
        self._pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile

    def region(self, left: int, top: int, side: int) -> Pixels:
        """Square region (side, side, 3) of the level: a view, or mirrored where it leaves the level."""
        width, height = self._level_px
        (x0, x1), (y0, y1) = inside(left, left + side, width), inside(top, top + side, height)
        pixels = self._pixels[y0 - self._top : y1 - self._top, x0 - self._left : x1 - self._left]
        return mirrored(pixels, left=x0 - left, top=y0 - top, side=side)


@dataclass(frozen=True)
class OpenBlock:
    """A block whose tiles are on their way: canvases by level, and the jobs that fill them."""

    canvases: dict[int, Canvas]
    jobs: tuple[Future[Any], ...]

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
        blocks: Sequence[Block],
        *,
        pool: Executor,
        stages: Stages,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._slide, self._blocks, self._pool, self._stages = slide, blocks, pool, stages
        self._keep_bytes = keep_bytes
        self._uses: dict[TileKey, deque[int]] = {}
        for index, block in enumerate(blocks):
            for need in block.needs:
                for column, row in need.tiles():
                    self._uses.setdefault((need.level, column, row), deque()).append(index)
        self._kept: dict[TileKey, Future[dict[TileKey, Pixels]]] = {}
        self._kept_bytes = 0
        self._spare: list[Pixels] = []

    def open_block(self, index: int) -> OpenBlock:
        """Submit the jobs that fill the canvases of a block; the pool must start jobs in the order of submission.

        Jobs that paste wait for jobs that decode, which were submitted before them: on such a pool they are running
        or done by then, so nothing waits for ever.
        """
        canvases: dict[int, Canvas] = {}
        jobs: list[Future[Any]] = []
        for need in self._blocks[index].needs:
            canvas = canvases[need.level] = Canvas(self._slide, need, self._spare)
            keys = [(need.level, column, row) for column, row in need.tiles()]
            for key in keys:
                self._uses[key].popleft()
            known = [key for key in keys if key in self._kept]
            fresh = [key for key in keys if key not in self._kept]
            for start in range(0, len(fresh), TILES_A_JOB):
                part = fresh[start : start + TILES_A_JOB]
                keep = frozenset(key for key in part if self._uses[key])
                job = self._pool.submit(self._decode, canvas, part, keep)
                for key in keep:
                    self._keep(key, job)
                jobs.append(job)
            last = {key: self._forget(key) for key in known if not self._uses[key]}
            again = {key: self._kept[key] for key in known if self._uses[key]}
            if known:
                jobs.append(self._pool.submit(_paste_kept, canvas, again, last))
        self._keep_within_limit()
        return OpenBlock(canvases, tuple(jobs))

    def close_block(self, opened: OpenBlock) -> None:
        """Take the canvases of a block back, once nothing reads them any more."""
        self._spare.extend(canvas.buffer for canvas in opened.canvases.values())
        del self._spare[: -2 * len(opened.canvases)]

    def _decode(self, canvas: Canvas, keys: Sequence[TileKey], keep: frozenset[TileKey]) -> dict[TileKey, Pixels]:
        reading = decoding = 0.0
        kept = {}
        for key in keys:
            begun = time.perf_counter()
            fetched = self._slide.fetch_tile(*key)
            there = time.perf_counter()
            tile = self._slide.decode_tile(*key, fetched)
            canvas.paste(key[1], key[2], tile)
            reading, decoding = reading + there - begun, decoding + time.perf_counter() - there
            if key in keep:
                kept[key] = tile
        self._stages.add(READ, reading, len(keys))
        self._stages.add(DECODE, decoding, len(keys))
        return kept

    def _keep(self, key: TileKey, job: Future[dict[TileKey, Pixels]]) -> None:
        self._kept[key] = job
        self._kept_bytes += self._bytes_of(key)

    def _forget(self, key: TileKey) -> Future[dict[TileKey, Pixels]]:
        self._kept_bytes -= self._bytes_of(key)
        return self._kept.pop(key)

    def _bytes_of(self, key: TileKey) -> int:
        width, height = self._slide.tile_px[key[0]]
        return 3 * width * height

    def _keep_within_limit(self) -> None:
        if self._kept_bytes <= self._keep_bytes:
            return
        for key in sorted(self._kept, key=lambda key: self._uses[key][0], reverse=True):
            self._forget(key)
            if self._kept_bytes <= self._keep_bytes:
                return


def _paste_kept(
    canvas: Canvas,
    again: dict[TileKey, Future[dict[TileKey, Pixels]]],
    last: dict[TileKey, Future[dict[TileKey, Pixels]]],
) -> None:
    """Paste tiles that were decoded for an earlier block; those that are used for the last time are let go."""
    for key, job in again.items():
        canvas.paste(key[1], key[2], job.result()[key])
    for key, job in last.items():
        canvas.paste(key[1], key[2], job.result().pop(key))
