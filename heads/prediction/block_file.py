"""Values of a slide's rows on their way: written block by block, resumed after a kill, read in order of rows."""

from __future__ import annotations

import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Ints
from ...store.atomic import disk_errors, remove_resumable, resumable_path, write_at
from ...store.journal import Block, Journal

log = logging.getLogger(__name__)

ROWS_ENDING = "partial-f4"
FLOAT = np.dtype("<f4")


class BlockFile:
    """Rows (n, width) of float32 beside a file that is to come, and the journal of the blocks that are written.

    A row lies at its place, so that reading in order is reading on. The file is written, not mapped: a full disk is an
    error, where a map would end the process.

    Parameters
    ----------
    path
        The file to come.
    blocks
        Rows of each block, ascending; frozen, for the same blocks give the same bits.
    width
        Values of a row.
    identity
        What the values depend on. Blocks of a file begun with another identity are not taken.
    """

    def __init__(self, path: Path, blocks: Sequence[Ints], *, width: int, identity: Mapping[str, Any]) -> None:
        self.path, self.blocks, self.width = path, blocks, width
        self._rows_path = resumable_path(path, ROWS_ENDING)
        plan = {"plan": json.dumps({**identity, "blocks": len(blocks), "width": width}, sort_keys=True)}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            found = Journal.open(path)
            if found is not None and (found.identity != plan or not self._rows_path.is_file()):
                log.warning("%s: what an earlier job began was made otherwise; it is begun anew", path)
                found.close()
                found = None
            if found is None:
                remove_resumable(path)
                self._rows_path.touch()
                found = Journal.create(path, plan)
            self._journal = found
            self._file = os.open(self._rows_path, os.O_RDWR)
            os.ftruncate(self._file, self._n * self._row_bytes)
        self._keep_what_is_whole()

    @property
    def done(self) -> int:
        """Blocks that are written."""
        return len(self._journal.blocks)

    def fill(self, compute: Callable[[Ints], NDArray[np.float32]], progress: Callable[[int], None]) -> None:
        """Compute the blocks that are not written yet.

        Parameters
        ----------
        compute
            From rows (m,) to values (m, width).
        progress
            Called with the rows that are done.

        Raises
        ------
        StoreError
            If the disk is full.
        """
        rows_done = sum(len(block) for block in self.blocks[: self.done])
        progress(rows_done)
        for block in self.blocks[self.done :]:
            values = np.ascontiguousarray(compute(block), dtype=FLOAT)
            with disk_errors(self.path):
                for start, stop in _stretches(block):
                    place = int(block[start]) * self._row_bytes
                    write_at(self._file, values[start:stop].tobytes(), place)
                self._journal.add(Block(self.done, len(block), zlib.crc32(values.tobytes()), FLOAT.str))
            rows_done += len(block)
            progress(rows_done)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Values (stop - start, width) of rows that follow each other."""
        size = (stop - start) * self._row_bytes
        content = os.pread(self._file, size, start * self._row_bytes)
        return np.frombuffer(content, dtype=FLOAT).reshape(stop - start, self.width)

    def close(self, *, remove: bool) -> None:
        """Let go of the files, and remove them where what they were for is written."""
        self._journal.close()
        os.close(self._file)
        if remove:
            remove_resumable(self.path)

    @property
    def _n(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def _row_bytes(self) -> int:
        return FLOAT.itemsize * self.width

    def _keep_what_is_whole(self) -> None:
        """Forget blocks from the first one on whose rows are not what was written: the machine lost power."""
        for number, (block, said) in enumerate(zip(self.blocks, list(self._journal.blocks), strict=False)):
            parts = [self.read(int(block[a]), int(block[b - 1]) + 1) for a, b in _stretches(block)]
            if said.rows != len(block) or zlib.crc32(np.concatenate(parts).tobytes()) != said.crc32:
                log.warning("%s: block %d is not what was written; it is computed again", self.path, number)
                self._journal.cut(number)
                return


def _stretches(rows: Ints) -> Iterator[tuple[int, int]]:
    """Places between which ascending rows follow each other without a gap."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)]
    return itertools.pairwise(ends)
