"""Checksums: of the contents of a dataset and of the attributes of a file, written once and re-computed by `verify`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CRC32 = "crc32"
"""Attribute of a dataset: `content_crc32` of its contents."""

ATTRIBUTES_CRC32 = "attributes_crc32"
"""Attribute of a file: `attributes_crc32` of all its other root attributes."""

_STEP_BYTES = 1 << 24


def content_crc32(values: NDArray[Any], *, start: int = 0) -> int:
    """crc32 of an array of numbers, fixed-length bytes, or strings.

    Parameters
    ----------
    values
        Of any shape. Numbers count with their little-endian bytes in C order; each string with its length in bytes
        (little-endian uint32) and its UTF-8, so that no two lists of strings look the same.
    start
        crc32 of what came before, where an array is taken in pieces.
    """
    if values.dtype.kind in "OUT":
        for text in values.ravel():
            raw = text if isinstance(text, bytes) else str(text).encode()
            start = zlib.crc32(raw, zlib.crc32(len(raw).to_bytes(4, "little"), start))
        return start
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return zlib.crc32(little.tobytes() if little.ndim == 0 else little.reshape(-1).view(np.uint8).data, start)


def dataset_crc32(dataset: Any) -> int:
    """`content_crc32` of an HDF5 dataset, read in pieces of some MiB."""
    found = 0
    for piece in pieces(dataset):
        found = content_crc32(piece, start=found)
    return found


def pieces(dataset: Any) -> Iterator[NDArray[Any]]:
    """The contents of an HDF5 dataset in order, in pieces of some MiB along its first axis."""
    if dataset.ndim == 0:
        yield np.asarray(dataset[()], dtype=dataset.dtype)  # a string stays one, and is not bytes of a fixed length
        return
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, _STEP_BYTES // row_bytes)
    for start in range(0, len(dataset), step):
        yield np.asarray(dataset[start : start + step])


def attributes_crc32(attributes: Mapping[str, Any]) -> int:
    """crc32 of the attributes of a file (all but this one) as sorted JSON."""
    plain = {name: _plain(value) for name, value in attributes.items() if name != ATTRIBUTES_CRC32}
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def seal_attributes(file: Any) -> None:
    """Give an HDF5 file that is being written its attribute `attributes_crc32`."""
    file.attrs[ATTRIBUTES_CRC32] = np.uint32(attributes_crc32(file.attrs))


def seal_datasets(file: Any) -> None:
    """Give every dataset of an HDF5 file that is being written its attribute `crc32`."""
    import h5py

    def seal(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            item.attrs[CRC32] = np.uint32(dataset_crc32(item))

    file.visititems(seal)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
