"""Rows of many files as one array: maps side by side in the address space, so that one gather serves them all."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .address_space import AVAILABLE, PAGE_BYTES, map_piece, reserve
from .arrays import Ints
from .errors import DamagedFileError
from .file_map import FileMap
from .memory_limit import memory_limit, resident_file_bytes

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
