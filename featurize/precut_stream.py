"""Patches that another tool cut, batch after batch: the ways of `PatchStream`, without a slide to cut them from."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import numpy as np

from ..store.arrays import Floats, Pixels, Strings
from .patch_stream import BATCHES_AHEAD, PATCHES_A_JOB, Visit
from .precut import PrecutSlide
from .readers import Readers
from .reading import Field, mirrored
from .resampling import resample_pil
from .stages import READ, RESAMPLE, WAIT


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
        visit: Visit,
        fields: Sequence[Field],
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
