"""The feature file: what was seen, as one uncompressed, page-aligned dataset that memory-maps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Ints
from ..errors import DamagedFileError, StoreError
from .atomic import atomic_path, write_at
from .mapped import map_chunks, map_file, stamp_of
from .precision import FP16, FP32, half
from .schema import FEATURES, create_h5, open_h5, required


def create_rows(path: Path, header: FeatureHeader, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> UnfinishedRows:
    """Lay out a feature file with every attribute and room for all rows, at its full (sparse) size.

    Raises
    ------
    StoreError
        If the folder cannot be written, or the disk is full.
    """
    with _laid_out(path, header, shape=shape, dtype=dtype):
        pass
    return UnfinishedRows(path)


def recast_rows(
    rows: UnfinishedRows, path: Path, header: FeatureHeader, *, dtype: np.dtype[Any], done: Ints
) -> UnfinishedRows:
    """Copy the rows `done` into a new file of another dtype, which appears under `path` with all of them."""
    with _laid_out(path, header, shape=rows.shape, dtype=dtype) as temporary:
        wanted = UnfinishedRows(temporary)
        done = np.sort(done)
        try:
            for start in range(0, len(done), header.block_rows):
                some = done[start : start + header.block_rows]
                wanted.write(some, rows.read(some).astype(dtype))
        finally:
            wanted.close()
    return UnfinishedRows(path)


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


class UnfinishedRows:
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


BLOCK_ROWS = 256
"""Rows per checksum."""


@dataclass(frozen=True)
class FeatureHeader:
    """What a feature file says of itself.

    Attributes
    ----------
    fingerprint
        sha256 over everything that shapes the numbers.
    record
        The backbone's record, as JSON.
    mpp, fov_um
        Physical resolution and side of the view.
    upsampling
        Slide's um/px over the view's, where larger than 1, else 1.
    precision
        Arithmetic of the forward pass ("fp32", "bf16", ...).
    patches_digest
        Digest of the patch file whose rows these are.
    slide_mpp, source_digest
        Scale and image digest of the slide that the pixels came from.
    block_rows
        Rows per checksum.
    plan
        How the rows were computed (batch, threads, torch, kind of device): on record, not part of what they are.
    """

    slide_id: str
    fingerprint: str
    record: dict[str, Any]
    mpp: float
    fov_um: float
    upsampling: float
    precision: str
    patches_digest: str
    slide_mpp: float
    source_digest: str
    block_rows: int = BLOCK_ROWS
    plan: dict[str, Any] = field(default_factory=dict, compare=False)

    def attributes(self) -> dict[str, Any]:
        """The attributes of the file, as HDF5 holds them."""
        return {
            "slide_id": self.slide_id,
            "fingerprint": self.fingerprint,
            "record": json.dumps(self.record, sort_keys=True),
            "mpp": self.mpp,
            "fov_um": self.fov_um,
            "upsampling": self.upsampling,
            "precision": self.precision,
            "patches_digest": self.patches_digest,
            "slide_mpp": self.slide_mpp,
            "source_digest": self.source_digest,
            "block_rows": self.block_rows,
            "plan": json.dumps(self.plan, sort_keys=True),
        }


@dataclass(frozen=True)
class FeatureFile:
    """An opened feature file.

    Attributes
    ----------
    header
        What it says of itself.
    features
        (n, dim) or (n, tokens, dim), read-only, memory-mapped where it has rows.
    """

    header: FeatureHeader
    features: Floats


@contextmanager
def write_features(
    path: Path, header: FeatureHeader, *, shape: tuple[int, ...], dtype: np.dtype[Any] = FP16
) -> Iterator[FeatureWriter]:
    """Write a feature file block by block; it appears under its name only when all rows are there.

    Parameters
    ----------
    dtype
        float16 is left for float32 where it does not hold the rows; float32 keeps every bit of them.

    Raises
    ------
    StoreError
        If rows are missing at the end, or a row holds NaN or infinity.
    """
    with atomic_path(path, once=True) as temporary:
        writer = FeatureWriter(temporary, header, shape=shape, key=path.parent.name, dtype=dtype)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


class FeatureWriter:
    """Takes rows in order, stores them as fp16, or as fp32 if asked to or once fp16 does not hold them."""

    def __init__(
        self, path: Path, header: FeatureHeader, *, shape: tuple[int, ...], key: str, dtype: np.dtype[Any] = FP16
    ) -> None:
        self._path, self._header, self._shape, self._key = path, header, shape, key
        self._pending: list[Floats] = []
        self._pending_rows = 0
        self._done = 0
        self._rows = create_rows(path, header, shape=shape, dtype=dtype)

    def append(self, rows: Floats) -> None:
        """Add the next rows, (m, dim) or (m, tokens, dim)."""
        check_shape(rows, self._header, shape=self._shape)
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self._header.block_rows:
            self._flush(final=False)

    def finish(self) -> None:
        """Write what is left, and the checksums."""
        self._flush(final=True)
        if self._done != self._shape[0]:
            msg = f"slide {self._header.slide_id}: {self._done} rows were written, wanted {self._shape[0]}"
            raise StoreError(msg)
        self._rows.seal(self._header.block_rows)

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()

    def _flush(self, *, final: bool) -> None:
        """Write whole blocks (and, at the end, the rest), so that checks see the same rows in every run."""
        if not self._pending:
            return
        rows = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
        step = self._header.block_rows
        whole = len(rows) if final else len(rows) // step * step
        for start in range(0, whole, step):
            self._write(rows[start : min(start + step, whole)])
        self._pending = [rows[whole:]] if whole < len(rows) else []
        self._pending_rows = len(rows) - whole

    def _write(self, block: Floats) -> None:
        if self._done + len(block) > self._shape[0]:
            msg = f"slide {self._header.slide_id}: more than the {self._shape[0]} rows that were announced"
            raise StoreError(msg)
        rows = np.arange(self._done, self._done + len(block))
        stored = half(block) if self._rows.dtype == FP16 else None
        if stored is None:
            check_finite(rows, block, self._header, key=self._key)
            stored = block.astype(FP32, copy=False)
            self._widen()
        self._rows.write(rows, stored)
        self._done += len(block)

    def _widen(self) -> None:
        """Go on in fp32, with the rows so far."""
        if self._rows.dtype == FP32:
            return
        narrow, done = self._rows, np.arange(self._done)
        self._rows = recast_rows(narrow, self._path, self._header, dtype=FP32, done=done)
        narrow.close()


def read_features(path: Path) -> FeatureFile:
    """Open a feature file and map its rows into memory.

    Raises
    ------
    StoreError
        If the file is foreign or truncated, or keeps its data in another file.
    """
    with open_h5(path, FEATURES) as file:
        stamp = stamp_of(path.stat())
        header = _read_header(file.attrs, path)
        if "features" not in file:
            msg = f"{path} holds no dataset 'features': it was damaged or written by something else"
            raise DamagedFileError(msg)
        dataset = _inside(file, path)
        shape, dtype = dataset.shape, dataset.dtype
        if 0 in shape:
            return FeatureFile(header, np.empty(shape, dtype=dtype))
        if dataset.chunks is not None:
            return FeatureFile(header, map_chunks(path, dataset))
        size, offset = int(np.prod(shape)) * dtype.itemsize, dataset.id.get_offset()
        if offset is None or offset + size > path.stat().st_size:
            msg = f"{path} is truncated or not contiguous: delete it and run featurize again"
            raise DamagedFileError(msg)
    return FeatureFile(header, map_file(path, dtype=dtype, offset=offset, shape=shape, stamp=stamp))


def _read_header(attributes: Any, path: Path) -> FeatureHeader:
    return FeatureHeader(
        slide_id=str(required(attributes, "slide_id", path)),
        fingerprint=str(required(attributes, "fingerprint", path)),
        record=json.loads(required(attributes, "record", path)),
        mpp=float(required(attributes, "mpp", path)),
        fov_um=float(required(attributes, "fov_um", path)),
        upsampling=float(required(attributes, "upsampling", path)),
        precision=str(required(attributes, "precision", path)),
        patches_digest=str(required(attributes, "patches_digest", path)),
        slide_mpp=float(required(attributes, "slide_mpp", path)),
        source_digest=str(required(attributes, "source_digest", path)),
        block_rows=int(required(attributes, "block_rows", path)),
        plan=json.loads(attributes.get("plan", "{}")),  # files made before it was recorded lack it
    )


def _inside(file: Any, path: Path) -> Any:
    """The dataset `features`, refused where its bytes would come from elsewhere or need a filter."""
    import h5py

    link = file.get("features", getlink=True)
    dataset = file["features"] if isinstance(link, h5py.HardLink) else None
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external
        or dataset.is_virtual
        or dataset.dtype not in (np.dtype("<f2"), np.dtype("<f4"))
        or dataset.ndim not in (2, 3)
    ):
        msg = f"{path}: 'features' must be a float16 or float32 dataset of 2 or 3 axes inside this file"
        raise StoreError(msg)
    return dataset
