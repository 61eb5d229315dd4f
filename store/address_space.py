"""Pieces of files side by side in the address space: one array over bytes that lie apart."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .file_map import Stamp, stamp_of

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
