"""Arrays mapped from files that know which file they were mapped from."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import mmap
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import DamagedFileError, StoreError
from ..limits import memory_limit, resident_file_bytes

Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of change of a file: files of a store are never changed, only replaced."""

NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class FileMap(np.memmap[Any, Any]):
    """A file's array, mapped read-only.

    Attributes
    ----------
    stamp
        Of the file that was mapped; a map of the same path may later be of another file. None of a view.
    """

    stamp: Stamp | None = None


def map_file(path: Path, *, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], stamp: Stamp) -> FileMap:
    """Map an array of a file.

    Parameters
    ----------
    stamp
        Of the file as it was when offset and shape were read.

    Raises
    ------
    StoreError
        If the file was replaced since, or the system has no room for more maps.
    """
    allow_many_files()
    try:
        mapped = FileMap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
        now = stamp_of(path.stat())
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        msg = (
            f"{path} cannot be mapped ({error.strerror}): every feature file of a table takes one open file and some "
            "maps; raise `ulimit -n` (and vm.max_map_count), or take fewer slides at a time"
        )
        raise StoreError(msg) from error
    if now != stamp:
        msg = f"{path} was replaced while it was opened: try again"
        raise StoreError(msg)
    mapped.stamp = stamp
    return mapped


def give_back(part: Any) -> None:
    """Let go of the pages of a read-only map that are in memory; the page cache keeps what it can. Others stay."""
    source: object = part.base if isinstance(part, np.memmap) and part.mode == "r" else None
    if isinstance(source, mmap.mmap):
        with contextlib.suppress(AttributeError, OSError):  # a system that cannot be asked
            source.madvise(mmap.MADV_DONTNEED)


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a file from another at the same path."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@cache
def allow_many_files() -> None:
    """Raise this process's own limit of open files to what it may have: a table keeps one open a feature file."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # the system allows less than it says; the limit stays
            return


PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
"""Pieces begin at multiples of it, in their file and in the address space."""

AVAILABLE = sys.platform != "win32"

_FIXED = 0x10  # MAP_FIXED of Linux and macOS


def reserve(size: int) -> mmap.mmap:
    """A stretch of addresses without memory behind it; what is mapped there is let go with it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)


def map_piece(
    reserved: mmap.mmap, start: int, path: Path, *, offset: int, size: int, stamp: Stamp | None = None
) -> None:
    """Map `size` bytes of a file from `offset` on, read-only, at `start` of a reserved stretch.

    Parameters
    ----------
    stamp
        Of the file that is meant; whatever lies at the path now where not given.

    Raises
    ------
    ValueError
        If the piece does not begin on a page, or does not lie inside the file and the stretch.
    OSError
        If the system refuses, or the file is gone or was replaced.
    """
    if start % PAGE_BYTES or offset % PAGE_BYTES or start + size > len(reserved):
        msg = f"{size} bytes from {offset} of {path} cannot lie at {start} of {len(reserved)}: pieces begin on pages"
        raise ValueError(msg)
    address = np.frombuffer(reserved, dtype=np.uint8).ctypes.data + start
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if stamp is not None and stamp_of(found)[:2] != stamp[:2]:
            raise FileNotFoundError(errno.ENOENT, "another file has taken its place", str(path))
        if offset + size > found.st_size:  # reading beyond the end would end the process
            msg = f"{path} is shorter than {offset + size} bytes: it was truncated"
            raise ValueError(msg)
        mapped = _libc().mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, file.fileno(), offset)
    if mapped != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    )  # fmt: skip
    return libc


def map_chunks(path: Path, dataset: Any) -> Floats:
    """Rows (n, ...) of an open, resizable dataset whose chunks hold whole rows.

    Chunks may lie anywhere in the file, in any order; the array is one piece all the same.

    Raises
    ------
    StoreError
        If chunks hold parts of rows, pass through a filter, or do not begin and end on pages.
    DamagedFileError
        If chunks are missing, or lie outside the file.
    """
    chunks, shape = dataset.chunks, dataset.shape
    size = math.prod(chunks) * dataset.dtype.itemsize
    if chunks[1:] != shape[1:] or dataset.id.get_create_plist().get_nfilters() or size % PAGE_BYTES or not AVAILABLE:
        msg = (
            f"{path}: 'features' has chunks of {chunks} for rows of {shape[1:]}; only chunks of whole rows without "
            f"filter, of a multiple of {PAGE_BYTES} bytes, can be mapped: write it contiguous"
        )
        raise StoreError(msg)
    count = -(-shape[0] // chunks[0])
    if dataset.id.get_num_chunks() != count:
        msg = f"{path}: {dataset.id.get_num_chunks()} of {count} chunks of 'features' are there: featurize it again"
        raise DamagedFileError(msg)
    reserved = reserve(count * size)
    for i in range(count):
        chunk = dataset.id.get_chunk_info(i)
        start = chunk.chunk_offset[0] // chunks[0] * size
        try:
            map_piece(reserved, start, path, offset=chunk.byte_offset, size=size)
        except ValueError as error:
            msg = f"{path}: chunk {i} of 'features' cannot be mapped ({error})"
            raise DamagedFileError(msg) from error
    return np.frombuffer(reserved, dtype=dataset.dtype, count=math.prod(shape)).reshape(shape)


RESIDENT_SHARE = 0.35
"""Share of the memory that mapped pages may take before they are given back; the page cache keeps what it can."""

CHECKED_ROWS = 1024
"""Rows gathered between two looks at the resident pages; Linux maps up to 64 KiB around each."""


class RowMap:
    """Rows of memory-mapped arrays of one dtype and row shape, addressed by one number.

    Every array is mapped again, into one reserved stretch of addresses, at a multiple of its row's length: row `r` of
    part `p` is row `first[p] + r` of the whole. Nothing is copied, and gathering rows of a thousand slides in random
    order costs what gathering them from one file does. Between the parts lie addresses without memory, which no row
    number below reaches.

    Parameters
    ----------
    parts
        (n_s, ...) arrays as `numpy.memmap` gives them, at offsets that are multiples of the page size.

    Raises
    ------
    DamagedFileError
        If a file became shorter since it was opened: reading it would end the process.
    OSError
        If a file is gone or was replaced since, or the system has no room.

    Attributes
    ----------
    first
        (n_parts,) number of the first row of each part.
    """

    def __init__(self, parts: Sequence[np.memmap[Any, Any]]) -> None:
        self._row_bytes = parts[0].itemsize * math.prod(parts[0].shape[1:])
        step = math.lcm(self._row_bytes, PAGE_BYTES)
        slots = [-(-part.nbytes // step) * step for part in parts]
        starts = np.concatenate([[0], np.cumsum(slots)])
        self.first: Ints = starts[:-1] // self._row_bytes
        self._reserved = reserve(int(starts[-1]))
        for part, start in zip(parts, starts[:-1], strict=True):
            path, stamp = Path(str(part.filename)), part.stamp if isinstance(part, FileMap) else None
            try:
                map_piece(self._reserved, int(start), path, offset=part.offset, size=part.nbytes, stamp=stamp)
            except ValueError as error:
                msg = f"{path} was cut off after it was opened ({error}): featurize the slide again"
                raise DamagedFileError(msg) from error
        self._rows = np.frombuffer(self._reserved, dtype=np.dtype((np.void, self._row_bytes)))
        self._resident = int(RESIDENT_SHARE * memory_limit())
        self._gathered = 0

    @staticmethod
    def served(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> list[int]:
        """Numbers of the parts that can be mapped so: on disk, of this type, neither empty nor a slice."""
        return [i for i, part in enumerate(parts) if AVAILABLE and part.dtype == dtype and _is_whole_map(part)]

    def take(self, rows: Ints, out: NDArray[Any]) -> None:
        """Copy rows (m,) into `out` (m, ...), which is contiguous and of the parts' dtype."""
        if not len(rows):
            return
        items = out.reshape(len(rows), -1).view(self._rows.dtype)[:, 0]
        np.take(self._rows, rows, out=items, mode="clip")  # the mode that writes without a buffer
        self._gathered += len(rows)
        if self._gathered > CHECKED_ROWS:
            self._gathered = 0
            if resident_file_bytes() > self._resident:
                self._reserved.madvise(mmap.MADV_DONTNEED)  # a store larger than memory passes through, page by page


def _is_whole_map(part: NDArray[Any]) -> bool:
    """Whether an array is a file's map from its beginning, not a view into it."""
    if not isinstance(part, np.memmap) or not part.size or not isinstance(part.filename, str | Path):
        return False
    source: object = part.base
    return isinstance(source, mmap.mmap) and part.offset % PAGE_BYTES == 0
