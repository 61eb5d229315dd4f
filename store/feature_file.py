"""The feature file: what was seen, as one uncompressed, page-aligned dataset that memory-maps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Floats
from .atomic import atomic_path
from .errors import StoreError
from .precision import loses_precision
from .schema import FEATURES, create_h5, open_h5, required

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
def write_features(path: Path, header: FeatureHeader, *, shape: tuple[int, ...]) -> Iterator[FeatureWriter]:
    """Write a feature file block by block; it appears under its name only when all rows are there.

    Raises
    ------
    StoreError
        If rows are missing at the end, or a row holds NaN or infinity.
    """
    with atomic_path(path, once=True) as temporary, create_h5(temporary, FEATURES) as file:
        writer = FeatureWriter(file, header, shape)
        yield writer
        writer.finish()


class FeatureWriter:
    """Takes rows in order, stores them as fp16, or as fp32 from the moment that fp16 does not hold them."""

    def __init__(self, file: Any, header: FeatureHeader, shape: tuple[int, ...]) -> None:
        self._file, self._header, self._shape = file, header, shape
        self._pending: list[Floats] = []
        self._pending_rows = 0
        self._rows = 0
        self._dataset = self._create("features", np.dtype("<f2"))

    def append(self, rows: Floats) -> None:
        """Add the next rows, (m, dim) or (m, tokens, dim)."""
        if rows.shape[1:] != self._shape[1:]:
            msg = f"slide {self._header.slide_id}: rows of shape {rows.shape[1:]}, wanted {self._shape[1:]}"
            raise StoreError(msg)
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))  # (m,)
        if not finite.all():
            row = self._rows + self._pending_rows + int(np.argmin(finite))
            msg = (
                f"slide {self._header.slide_id}: the backbone gave NaN or infinity in row {row}. "
                "Run it in fp32, or check the patch and the weights."
            )
            raise StoreError(msg)
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self._header.block_rows:
            self._flush(final=False)

    def finish(self) -> None:
        """Write what is left, the checksums and the attributes."""
        self._flush(final=True)
        if self._rows != self._shape[0]:
            msg = f"slide {self._header.slide_id}: {self._rows} rows were written, wanted {self._shape[0]}"
            raise StoreError(msg)
        header, step = self._header, self._header.block_rows
        blocks = [self._dataset[start : start + step].tobytes() for start in range(0, self._rows, step)]
        sums = np.array([zlib.crc32(block) for block in blocks], dtype="<u4")
        self._file.create_dataset("crc32", data=sums, track_times=False)
        self._file.attrs.update(
            {
                "slide_id": header.slide_id,
                "fingerprint": header.fingerprint,
                "record": json.dumps(header.record, sort_keys=True),
                "mpp": header.mpp,
                "fov_um": header.fov_um,
                "upsampling": header.upsampling,
                "precision": header.precision,
                "patches_digest": header.patches_digest,
                "slide_mpp": header.slide_mpp,
                "source_digest": header.source_digest,
                "block_rows": header.block_rows,
            }
        )

    def _create(self, name: str, dtype: np.dtype[Any]) -> Any:
        # Every row is written before the file gets its name, so filling it with zeros first is wasted work.
        return self._file.create_dataset(name, shape=self._shape, dtype=dtype, fill_time="never", track_times=False)

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
        if self._rows + len(block) > self._shape[0]:
            msg = f"slide {self._header.slide_id}: more than the {self._shape[0]} rows that were announced"
            raise StoreError(msg)
        if self._dataset.dtype == np.float16 and loses_precision(block):
            self._promote()
        self._dataset[self._rows : self._rows + len(block)] = block.astype(self._dataset.dtype)
        self._rows += len(block)

    def _promote(self) -> None:
        """Go on in fp32; the rows so far were within fp16's tolerance and keep their values."""
        wide = self._create("features_fp32", np.dtype("<f4"))
        if self._rows:
            wide[: self._rows] = self._dataset[: self._rows]
        del self._file["features"]
        self._file.move("features_fp32", "features")
        self._dataset = self._file["features"]


def read_features(path: Path) -> FeatureFile:
    """Open a feature file and map its rows into memory.

    Raises
    ------
    StoreError
        If the file is foreign or truncated, or keeps its data in another file.
    """
    with open_h5(path, FEATURES) as file:
        header = _read_header(file.attrs, path)
        if "features" not in file:
            msg = f"{path} holds no dataset 'features': it was damaged or written by something else"
            raise StoreError(msg)
        dataset = _inside(file, path)
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
        if 0 in shape:
            return FeatureFile(header, np.empty(shape, dtype=dtype))
        size = int(np.prod(shape)) * dtype.itemsize
        if offset is None or offset + size > path.stat().st_size:
            msg = f"{path} is truncated or not contiguous: delete it and run featurize again"
            raise StoreError(msg)
    return FeatureFile(header, np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape))


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
        or dataset.chunks is not None
        or dataset.dtype not in (np.dtype("<f2"), np.dtype("<f4"))
        or dataset.ndim not in (2, 3)
    ):
        msg = f"{path}: 'features' must be a contiguous float16 or float32 dataset inside this file"
        raise StoreError(msg)
    return dataset
