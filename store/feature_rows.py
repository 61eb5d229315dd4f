"""The rows of a feature file as raw bytes: HDF5 lays the file out once, then rows are written at their place."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Floats, Ints
from .atomic import atomic_path, write_at
from .errors import StoreError
from .schema import FEATURES, create_h5, open_h5

if TYPE_CHECKING:
    from .feature_file import FeatureHeader


def create_rows(path: Path, header: FeatureHeader, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureRows:
    """Lay out a feature file with every attribute and room for all rows, at its full (sparse) size.

    Raises
    ------
    StoreError
        If the folder cannot be written, or the disk is full.
    """
    with _laid_out(path, header, shape=shape, dtype=dtype):
        pass
    return FeatureRows(path)


def recast_rows(
    rows: FeatureRows, path: Path, header: FeatureHeader, *, dtype: np.dtype[Any], done: Ints
) -> FeatureRows:
    """Copy the rows `done` into a new file of another dtype, which appears under `path` with all of them."""
    with _laid_out(path, header, shape=rows.shape, dtype=dtype) as temporary:
        wanted = FeatureRows(temporary)
        done = np.sort(done)
        try:
            for start in range(0, len(done), header.block_rows):
                some = done[start : start + header.block_rows]
                wanted.write(some, rows.read(some).astype(dtype))
        finally:
            wanted.close()
    return FeatureRows(path)


def check_shape(values: Floats, header: FeatureHeader, *, shape: tuple[int, ...]) -> None:
    """Refuse `values` (m, ...) unless their rows are of the shape of the file's, `shape` (n, ...).

    Raises
    ------
    StoreError
        If the shape differs.
    """
    if values.shape[1:] != shape[1:]:
        msg = f"slide {header.slide_id}: rows of shape {values.shape[1:]}, wanted {shape[1:]}"
        raise StoreError(msg)


def check_finite(rows: Ints, values: Floats, header: FeatureHeader, *, key: str) -> None:
    """Refuse `values` (m, ...) for the row indices `rows` (m,) unless they are numbers.

    What `half` casts is finite, and need not come here.

    Raises
    ------
    StoreError
        If a value is NaN or infinite.
    """
    finite = np.isfinite(values)
    if not finite.all():  # the row is looked for only where there is one
        row = rows[int(np.argmin(finite.reshape(len(rows), -1).all(axis=1)))]
        msg = (
            f"slide {header.slide_id}: the backbone gave NaN or infinity in row {row} of {key} "
            f"(backbone {header.record.get('key', 'unknown')}). "
            "Run it in fp32, or check the patch and the weights."
        )
        raise StoreError(msg)


@contextmanager
def _laid_out(path: Path, header: FeatureHeader, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Path]:
    blocks = -(-shape[0] // header.block_rows)
    with atomic_path(path) as temporary:
        with create_h5(temporary, FEATURES) as file:
            file.attrs.update(header.attributes())
            _allocate(file, "features", shape, dtype)
            _allocate(file, "crc32", (blocks,), np.dtype("<u4"))
        yield temporary


def _allocate(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Give a contiguous dataset its place in the file now; every byte of it is written before the file is named."""
    from h5py import h5d, h5p, h5s, h5t

    options = h5p.create(h5p.DATASET_CREATE)
    options.set_layout(h5d.CONTIGUOUS)
    options.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    options.set_fill_time(h5d.FILL_TIME_NEVER)
    options.set_obj_track_times(False)
    h5d.create(file.id, name.encode(), h5t.py_create(dtype), h5s.create_simple(shape), dcpl=options)


class FeatureRows:
    """The rows of one unfinished feature file, written in any order.

    Attributes
    ----------
    shape
        (n, dim) or (n, tokens, dim).
    dtype
        Little-endian float16 or float32.
    """

    def __init__(self, path: Path) -> None:
        with open_h5(path, FEATURES) as file:
            features, sums = file["features"], file["crc32"]
            self.shape: tuple[int, ...] = features.shape
            self.dtype: np.dtype[Any] = features.dtype
            self._offset, self._sums_offset = features.id.get_offset(), sums.id.get_offset()
        self.path = path
        self._file = path.open("r+b", buffering=0)

    def close(self) -> None:
        """Let go of the file; what was written stays."""
        self._file.close()

    def write(self, rows: Ints, values: Floats) -> None:
        """Write `values` (m, ...) of this file's dtype at the row indices `rows` (m,).

        Raises
        ------
        OSError
            If the disk is full.
        """
        content = np.ascontiguousarray(values).data.cast("B")
        row_bytes = len(content) // len(rows)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in pairwise([*starts.tolist(), len(rows)]):
            place = self._offset + int(rows[start]) * row_bytes
            write_at(self._file.fileno(), content[start * row_bytes : stop * row_bytes], place)

    def read(self, rows: Ints) -> Floats:
        """The values (m, ...) at the row indices `rows` (m,)."""
        return np.asarray(self._mapped()[rows])

    def seal(self, block_rows: int) -> None:
        """Write the checksum of every `block_rows` rows, in the order of the file."""
        if not self.shape[0]:
            return
        mapped = self._mapped()
        sums = [zlib.crc32(mapped[start : start + block_rows].data) for start in range(0, len(mapped), block_rows)]
        write_at(self._file.fileno(), np.array(sums, dtype="<u4").tobytes(), self._sums_offset)

    def _mapped(self) -> Floats:
        if not self.shape[0]:
            return np.empty(self.shape, dtype=self.dtype)
        return np.memmap(self._file, dtype=self.dtype, mode="r", offset=self._offset, shape=self.shape)
