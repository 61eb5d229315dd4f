"""Patches of one slide, batch after batch, read ahead on threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.arrays import Floats, Ints, Pixels, Strings
from ...store.files.patches import Patches
from ..slides.patches_h5 import PrecutSlide
from .field import PatchField, mirrored, regions_of
from .read_blocks import plan_blocks
from .readers import READ, RESAMPLE, WAIT, Readers
from .resampling import resample_pil
from .tiles import OpenBlock, TileReader, TileSource

BATCHES_AHEAD = 2
"""Batches on their way beside the one in use."""

AHEAD_BYTES = 512 * 2**20
"""Canvases that may be open at a time, beyond which the oldest block is finished before another is begun."""

PATCHES_A_JOB = 4


@dataclass(frozen=True)
class ReadPlan:
    """What is read of a slide, and in which order.

    Attributes
    ----------
    centers_px
        (n, 2) level-0 pixels, x then y, in the order of the patch set.
    order
        (n,) row at each visiting position.
    block_px
        Side of the blocks that the order was made with, level-0 pixels.
    batch
        Patches per batch; batches start at multiples of it.
    start
        Position to begin at, a multiple of `batch`.
    """

    centers_px: Floats
    order: Ints
    block_px: float
    batch: int
    start: int = 0


@dataclass(frozen=True)
class _Cutting:
    """A block that is open, and the jobs that cut patches out of it."""

    opened: OpenBlock
    jobs: list[Future[Any]]


@dataclass
class _Batch:
    """Pixels (b, side, side, 3) of each field, and the jobs that fill them."""

    pixels: list[Pixels]
    jobs: list[Future[Any]]


class PatchStream:
    """The patches of one slide at several fields, from pixels that are decoded once.

    Iterating gives `(position, pixels)`: the visiting position of the batch's first patch, and uint8 (b, side, side, 3)
    for each field. `start` has the first blocks read before the first batch is asked for. The batches, and every pixel
    in them, do not depend on the number of threads.

    Parameters
    ----------
    resample
        Whether the patches of each field are resampled here; else whole-pixel regions come, to be resampled on a GPU
        with `corners`.
    """

    def __init__(
        self,
        slide: TileSource,
        visit: ReadPlan,
        fields: Sequence[PatchField],
        *,
        readers: Readers,
        resample: Sequence[bool] | None = None,
    ) -> None:
        self._fields, self._visit, self._readers = tuple(fields), visit, readers
        self._resample = tuple(resample) if resample is not None else (True,) * len(self._fields)
        centers = visit.centers_px[visit.order]  # (n, 2) in visiting order
        self._blocks = plan_blocks(centers, fields, slide, block_px=visit.block_px, start=visit.start)
        self._tiles = TileReader(slide, self._blocks, readers=readers)
        self._regions = [regions_of(field, centers) for field in fields]
        self._n = len(centers)
        self._opened = 0
        self._submitted = visit.start  # positions below it are on their way
        self._batches: deque[_Batch] = deque()
        self._open: deque[_Cutting] = deque()

    def start(self) -> None:
        """Begin to read."""
        self._read_ahead(self._visit.start)

    def __iter__(self) -> Iterator[tuple[int, list[Pixels]]]:
        for position in range(self._visit.start, self._n, self._visit.batch):
            self._read_ahead(position)
            batch = self._batches.popleft()
            with self._readers.stages.timed(WAIT, 1):
                for job in batch.jobs:
                    job.result()
            while self._open and all(job.done() for job in self._open[0].jobs):
                self._tiles.close_block(self._open.popleft().opened)
            yield position, batch.pixels

    def close(self) -> None:
        """Call off what was not begun, and wait for what was: the slide may be closed afterwards."""
        jobs = [job for cutting in self._open for job in (*cutting.opened.jobs, *cutting.jobs)]
        for job in jobs:
            job.cancel()
        wait(jobs)
        self._open.clear()
        self._batches.clear()
        self._blocks = []
        self._submitted = self._n

    def _read_ahead(self, position: int) -> None:
        wanted = min(self._n, position + (1 + BATCHES_AHEAD) * self._visit.batch)
        while self._submitted < wanted:
            self._make_room()
            block = self._blocks[self._opened]
            opened = self._tiles.open_block(self._opened)
            self._opened += 1
            cutting = _Cutting(opened, [])
            self._open.append(cutting)
            for first in range(block.start, block.stop, PATCHES_A_JOB):
                self._submit(cutting, first, min(first + PATCHES_A_JOB, block.stop))
            self._submitted = block.stop

    def _make_room(self) -> None:
        """Finish the oldest blocks while canvases take more than they may."""
        while sum(cutting.opened.nbytes for cutting in self._open) > AHEAD_BYTES:
            oldest = self._open.popleft()
            wait(oldest.jobs)  # an error among them is told by the batch it belongs to
            self._tiles.close_block(oldest.opened)

    def _submit(self, cutting: _Cutting, first: int, stop: int) -> None:
        """Have the patches at positions [first, stop) cut into the batches they belong to."""
        size = self._visit.batch
        while first < stop:
            start = first // size * size
            end = min(stop, start + size)
            if start == first:
                count = min(size, self._n - start)
                self._batches.append(_Batch([self._empty(number, count) for number in range(len(self._fields))], []))
            batch = self._batches[-1]
            for number, pixels in enumerate(batch.pixels):
                out = pixels[first - start :]
                job = self._readers.submit(self._cut, cutting.opened, number, range(first, end), out)
                batch.jobs.append(job)
                cutting.jobs.append(job)
            first = end

    def corners(self, number: int, position: int, count: int) -> Floats:
        """Corners (count, 2) of a field in its regions, for the patches from a visiting position on."""
        return self._regions[number][1][position : position + count]

    def _empty(self, number: int, count: int) -> Pixels:
        field = self._fields[number]
        side = field.side_px if self._resample[number] else field.region_px
        return np.empty((count, side, side, 3), dtype=np.uint8)

    def _cut(self, opened: OpenBlock, number: int, positions: range, out: Pixels) -> None:
        """Cut patches of one field into `out`."""
        field, (regions, corners) = self._fields[number], self._regions[number]
        canvas = opened.canvas(field.level)
        begun = time.perf_counter()
        for slot, position in enumerate(positions):
            left, top = regions[position].tolist()
            region = canvas.region(left, top, field.region_px)
            if self._resample[number]:
                region = resample_pil(region, corners[position], side_px=field.side_level_px, out_px=field.side_px)
            out[slot] = region
        self._readers.stages.add(RESAMPLE, time.perf_counter() - begun, len(positions))


class PrecutStream:
    """The patches of one file at several fields, each read once; see `PatchStream`.

    A patch of the size that a field wants goes on byte by byte. Another size is resampled from all of the patch, its
    pixels mirrored beyond the border.

    Parameters
    ----------
    barcode
        (n,) names of the rows of the patch set.
    """

    def __init__(
        self,
        slide: PrecutSlide,
        barcode: Strings,
        visit: ReadPlan,
        fields: Sequence[PatchField],
        *,
        readers: Readers,
        resample: Sequence[bool] | None = None,
    ) -> None:
        self._slide, self._visit, self._fields, self._readers = slide, visit, tuple(fields), readers
        self._resample = tuple(resample) if resample is not None else (True,) * len(self._fields)
        self._rows = slide.rows_of(barcode)[visit.order]  # (n,) of the file, in visiting order
        self._next = visit.start
        self._batches: deque[tuple[list[Pixels], list[Future[Any]]]] = deque()

    def start(self) -> None:
        """Begin to read."""
        self._read_ahead(self._visit.start)

    def __iter__(self) -> Iterator[tuple[int, list[Pixels]]]:
        for position in range(self._visit.start, len(self._rows), self._visit.batch):
            self._read_ahead(position)
            pixels, jobs = self._batches.popleft()
            with self._readers.stages.timed(WAIT, 1):
                for job in jobs:
                    job.result()
            yield position, pixels

    def close(self) -> None:
        """Call off what was not begun, and wait for what was."""
        jobs = [job for _, batch in self._batches for job in batch]
        for job in jobs:
            job.cancel()
        wait(jobs)
        self._batches.clear()
        self._next = len(self._rows)

    def corners(self, number: int, position: int, count: int) -> Floats:
        """Corners (count, 2) of a field in its regions, for the patches from a visiting position on."""
        return np.full((count, 2), float(self._fields[number].reach_px))

    def _read_ahead(self, position: int) -> None:
        wanted = min(len(self._rows), position + (1 + BATCHES_AHEAD) * self._visit.batch)
        while self._next < wanted:
            stop = min(self._next + self._visit.batch, len(self._rows))
            pixels = [self._empty(number, stop - self._next) for number in range(len(self._fields))]
            jobs = [
                self._readers.submit(self._cut, first, min(first + PATCHES_A_JOB, stop), self._next, pixels)
                for first in range(self._next, stop, PATCHES_A_JOB)
            ]
            self._batches.append((pixels, jobs))
            self._next = stop

    def _empty(self, number: int, count: int) -> Pixels:
        field = self._fields[number]
        side = field.side_px if self._resample[number] else field.region_px
        return np.empty((count, side, side, 3), dtype=np.uint8)

    def _cut(self, first: int, stop: int, begin: int, pixels: list[Pixels]) -> None:
        """Bring the patches at positions [first, stop) into the arrays of the batch that begins at `begin`."""
        begun = time.perf_counter()
        patches = [self._slide.patch(row) for row in self._rows[first:stop].tolist()]
        there = time.perf_counter()
        self._readers.stages.add(READ, there - begun, stop - first)
        for field, resample, out in zip(self._fields, self._resample, pixels, strict=True):
            reach = field.reach_px
            for slot, patch in enumerate(patches, start=first - begin):
                region = mirrored(patch, left=reach, top=reach, side=field.region_px)
                if resample:
                    corner = np.full(2, float(reach))
                    region = resample_pil(region, corner, side_px=field.side_level_px, out_px=field.side_px)
                out[slot] = region
        self._readers.stages.add(RESAMPLE, time.perf_counter() - there, (stop - first) * len(self._fields))


def open_stream(
    slide: TileSource,
    patches: Patches,
    visit: ReadPlan,
    fields: Sequence[PatchField],
    *,
    readers: Readers,
    resample: Sequence[bool],
) -> PatchStream | PrecutStream:
    """Give the patches of a visit, batch after batch; see `PatchStream`."""
    if isinstance(slide, PrecutSlide):
        return PrecutStream(slide, patches.barcode, visit, fields, readers=readers, resample=resample)
    return PatchStream(slide, visit, fields, readers=readers, resample=resample)
