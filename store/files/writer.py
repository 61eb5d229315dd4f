"""A feature file in the making that survives a kill at any moment, and then goes on to the very same bytes.

Beside the file to come lie its rows so far (`.NAME.partial-f2` in fp16, `.NAME.partial-f4` in fp32) and a journal of
the blocks that are written. Rows reach the disk's cache before the journal speaks of them, which outlives a killed
process; the journal's checksums find what a loss of power took.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..arrays import Floats, Ints
from ..errors import StoreError
from .atomic import check_named, disk_errors, named_file, publish, remove_resumable, resumable_path
from .features import FeatureHeader, UnfinishedRows, check_finite, check_shape, create_rows, read_features, recast_rows
from .journal import Journal, JournalBlock
from .precision import FP16, FP32, half

log = logging.getLogger(__name__)


def identity_of(header: FeatureHeader, shape: tuple[int, ...], *, block_rows: int, order: Ints) -> dict[str, Any]:
    """What a former job's rows must have been made for, that they may be kept."""
    return {
        **header.attributes(),
        "shape": list(shape),
        "visited_block_rows": block_rows,
        "order_sha256": hashlib.sha256(np.asarray(order, dtype="<i8").tobytes()).hexdigest(),
    }


def begin(path: Path, header: FeatureHeader, identity: Mapping[str, Any]) -> tuple[UnfinishedRows, Journal]:
    """Make a new file in fp16 and its journal; what a former job left is removed."""
    remove_resumable(path)
    rows = create_rows(partial_path(path, FP16), header, shape=tuple(identity["shape"]), dtype=FP16)
    return rows, Journal.create(path, identity)


def resume(path: Path, header: FeatureHeader, identity: Mapping[str, Any]) -> tuple[UnfinishedRows, Journal] | None:
    """What a former job left, if it is of the same identity and whole."""
    journal = Journal.open(path)
    if journal is None:
        return None
    other = sorted(name for name in identity if journal.identity.get(name) != identity[name])
    problem = f"other {', '.join(other)}" if other else ""
    partial = partial_path(path, dtype_after(journal.blocks))
    try:
        found = read_features(partial)
        if (found.header.attributes(), list(found.features.shape)) != (header.attributes(), identity["shape"]):
            problem = problem or "its attributes are not those of its journal"
    except StoreError as error:
        problem = problem or str(error)
    if problem:
        log.warning("%s starts from its first row; what an earlier job left of it cannot be used: %s", path, problem)
        journal.close()
        return None
    log.info("%s: %d blocks of a former job are there", path, len(journal.blocks))
    return UnfinishedRows(partial), journal


def dtype_after(blocks: list[JournalBlock]) -> np.dtype[Any]:
    """The dtype of the rows once these blocks are written."""
    return np.dtype(blocks[-1].dtype) if blocks else FP16


def partial_path(path: Path, dtype: np.dtype[Any]) -> Path:
    """Where rows lie beside the file to come, by their dtype."""
    return resumable_path(path, f"partial-f{dtype.itemsize}")


def open_job(
    path: Path, header: FeatureHeader, *, shape: tuple[int, ...], plan: Mapping[str, Any], block_rows: int, order: Ints
) -> FeatureJob:
    """Begin the feature file `path`, or go on with what a former job of the same identity left of it.

    Identity is everything said here: header, shape, plan, blocks and order. What differs or is damaged is discarded.

    Parameters
    ----------
    header
        What the file will say of itself; `plan` is added to it.
    shape
        (n, dim) or (n, tokens, dim).
    plan
        How the rows are computed (batch, threads, torch, kind of device), as JSON values.
    block_rows
        Rows per block, the unit of writing and of what a kill can lose.
    order
        (n,) row index by place in the order of visiting; block i has the rows
        `order[i * block_rows : (i + 1) * block_rows]`.

    Raises
    ------
    StoreError
        If the file is there already, `order` is no permutation of the rows, or the folder cannot be written.
    """
    if path.exists():
        remove_resumable(path)
        msg = f"{path} is complete, and a file is written once: delete it to have it written again"
        raise StoreError(msg)
    if not np.array_equal(np.sort(order), np.arange(shape[0])):
        msg = f"slide {header.slide_id}: the order of {len(order)} visits is no permutation of {shape[0]} rows"
        raise StoreError(msg)
    header = replace(header, plan=dict(plan))
    identity = identity_of(header, shape, block_rows=block_rows, order=order)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, journal = resume(path, header, identity) or begin(path, header, identity)
        job = FeatureJob(path, header, rows=rows, journal=journal, order=order, block_rows=block_rows)
        job.rewind(job.count_intact())
    return job


class FeatureJob:
    """One feature file in the making; made by `open_job`.

    As a context manager it closes at the end of the block, and keeps what is written for a later job.
    """

    def __init__(
        self, path: Path, header: FeatureHeader, *, rows: UnfinishedRows, journal: Journal, order: Ints, block_rows: int
    ) -> None:
        self._path, self._header = path, header
        self._rows, self._journal = rows, journal
        self._order, self._block_rows = order, block_rows
        self._checks: list[Callable[[], None]] = []
        self._own = {name: named_file(name) for name in (rows.path, resumable_path(path, "journal"))}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def blocks(self) -> int:
        """Number of blocks that the whole file has."""
        return -(-len(self._order) // self._block_rows)

    @property
    def blocks_done(self) -> int:
        """Number of blocks that are written."""
        return len(self._journal.blocks)

    def guard(self, check: Callable[[], None]) -> None:
        """Have `check` called before each line of the journal and before publication; it raises where all must stop."""
        self._checks.append(check)

    def write(self, rows: Ints, values: Floats) -> None:
        """Write the next block.

        Parameters
        ----------
        rows
            (m,) row indices, those of the next block in the order of visiting.
        values
            (m, dim) or (m, tokens, dim) float32.

        Raises
        ------
        StoreError
            If these are not the next block's rows, a value is NaN or infinite, another job has started the file from
            its first row, or the disk is full. The blocks so far are kept.
        """
        done = self.blocks_done
        if done == self.blocks or len(values) != len(rows) or not np.array_equal(rows, self._rows_of(done)):
            msg = f"slide {self._header.slide_id}: these {len(rows)} rows are not block {done} of {self.blocks}"
            raise StoreError(msg)
        check_shape(values, self._header, shape=self._rows.shape)
        stored = half(values) if self._rows.dtype == FP16 else None
        with disk_errors(self._path):
            if stored is None:
                check_finite(rows, values, self._header, key=self._path.parent.name)
                stored = np.ascontiguousarray(values, dtype=FP32)
                self._recast(FP32, blocks=done)
            self._rows.write(rows, stored)
            self._check_own()
            self._journal.add(JournalBlock(done, len(rows), zlib.crc32(stored.data), stored.dtype.str))
            self._drop_other()

    def rewind(self, blocks: int) -> None:
        """Forget all but the first `blocks` blocks, so that they are written again."""
        if blocks >= self.blocks_done:
            return
        dtype = dtype_after(self._journal.blocks[:blocks])
        with disk_errors(self._path):
            self._check_own()
            self._recast(dtype, blocks=blocks)
            self._journal.cut(blocks)
            self._drop_other()

    def count_intact(self) -> int:
        """Number of blocks, from the first, whose rows are what the journal says."""
        for i, block in enumerate(self._journal.blocks):
            found = self._rows.read(self._rows_of(i))
            with np.errstate(over="ignore", invalid="ignore"):
                stored = found.astype(block.dtype)
            same = stored.astype(found.dtype).tobytes() == found.tobytes()
            if not same or len(stored) != block.rows or zlib.crc32(stored.data) != block.crc32:
                log.warning("%s: block %d of %d is damaged; it is computed again", self._path, i, self.blocks)
                return i
        return self.blocks_done

    def finish(self) -> None:
        """Publish the file under its name, and remove what it was made from.

        Raises
        ------
        StoreError
            If blocks are missing, or another process wrote the file, or began it again, meanwhile.
        """
        if self.blocks_done < self.blocks:
            msg = f"slide {self._header.slide_id}: {self.blocks_done} blocks were written, wanted {self.blocks}"
            raise StoreError(msg)
        try:
            with disk_errors(self._path):
                self._rows.seal(self._header.block_rows)
                publish(self._rows.path, self._path, check=self._check_own)
        finally:
            self.close()
            if self._path.exists():
                remove_resumable(self._path)

    def close(self) -> None:
        """Let go of the files; what is written stays for a later job."""
        self._rows.close()
        self._journal.close()

    def _check_own(self) -> None:
        for check in self._checks:
            check()
        check_named(self._own, self._path)

    def _rows_of(self, block: int) -> Ints:
        return self._order[block * self._block_rows : (block + 1) * self._block_rows]

    def _recast(self, dtype: np.dtype[Any], *, blocks: int) -> None:
        """Go on in a file of another dtype, with the first `blocks` blocks; it counts once the journal says so."""
        if self._rows.dtype == dtype:
            return
        self._check_own()
        former, done = self._rows, self._order[: blocks * self._block_rows]
        self._rows = recast_rows(former, partial_path(self._path, dtype), self._header, dtype=dtype, done=done)
        former.close()
        del self._own[former.path]
        self._own[self._rows.path] = named_file(self._rows.path)

    def _drop_other(self) -> None:
        """Remove the file of the dtype that is not in use."""
        partial_path(self._path, FP32 if self._rows.dtype == FP16 else FP16).unlink(missing_ok=True)
