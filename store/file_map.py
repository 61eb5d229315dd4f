"""Arrays mapped from files that know which file they were mapped from."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StoreError

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
