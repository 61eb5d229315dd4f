"""A chunked dataset as one array, memory-mapped: whole rows per chunk, without filter, every chunk on a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .address_space import AVAILABLE, PAGE_BYTES, map_piece, reserve
from .arrays import Floats
from .errors import DamagedFileError, StoreError


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
