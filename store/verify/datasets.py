"""The bytes of one file against its checksums, and rows that are no numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Ints
from ..errors import DamagedFileError
from ..files.checksums import ATTRIBUTES_CRC32, CRC32, attributes_crc32, dataset_crc32
from ..files.features import FeatureFile
from ..files.schema import DAMAGE
from .problem import MENDS, Problem, name_rows


def not_finite(values: NDArray[Any]) -> Ints:
    """Rows (along the first axis) of `values` that hold NaN or infinity."""
    half = values.dtype == np.float16
    # Not finite is an exponent of all ones, which integers tell several times faster than isfinite of halves.
    finite = (values.view(np.uint16) & 0x7C00) != 0x7C00 if half else np.isfinite(values)
    if finite.all():
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))


def check_attributes(file: Any, path: str, *, kind: str) -> Iterator[Problem]:
    """Compare the attributes of an opened file with their checksum, where it has one."""
    wanted = file.attrs.get(ATTRIBUTES_CRC32)
    if wanted is not None and attributes_crc32(file.attrs) != int(wanted):
        names = ", ".join(sorted(set(file.attrs) - {ATTRIBUTES_CRC32}))
        what = f"do not match their checksum: one of {names} or the checksum has changed"
        yield Problem(path, "", "attributes", what, MENDS[kind])


def check_datasets(file: Any, path: str, *, kind: str) -> Iterator[Problem]:
    """Compare every dataset of an opened file with its checksum.

    A file none of whose datasets has one is older, or was written by another tool; it is not covered, see `is_covered`.
    """
    found = _datasets(file)
    covered = is_covered(file)
    for name, where in _elsewhere(file):
        what = f"keeps its data in {where}; a store keeps all of it in its own files"
        yield Problem(path, name, "", what, MENDS[kind])
    for name, dataset in found.items():
        try:
            wanted = dataset.attrs.get(CRC32)
            if wanted is not None and dataset_crc32(dataset) != int(wanted):
                what = "the contents do not match their checksum (the attribute crc32)"
                yield Problem(path, name, "", what, MENDS[kind])
            elif wanted is None and covered:
                yield Problem(path, name, "", "has no checksum, as the other datasets of the file have", MENDS[kind])
        except DAMAGE as error:
            yield Problem(path, name, "", f"cannot be read ({error})", MENDS[kind])


def is_covered(file: Any) -> bool:
    """Whether a file carries checksums of its datasets; one that has none, of its attributes."""
    found = _datasets(file)
    return any(CRC32 in dataset.attrs for dataset in found.values()) if found else ATTRIBUTES_CRC32 in file.attrs


def check_blocks(root: Path, path: str, opened: FeatureFile, file: Any) -> Iterator[Problem]:
    """Compare each block of rows of a feature file with its checksum, and look for NaN and infinity.

    Rows are read, not mapped: a disk that fails in the middle is then an error and not a bus error.

    Parameters
    ----------
    file
        The same file, opened by h5py.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    rows, step, sums = len(opened.features), opened.header.block_rows, np.asarray(file["crc32"])
    blocks = -(-rows // step) if step > 0 else -1
    if sums.shape != (blocks,) or sums.dtype != np.uint32:
        what = f"has shape {sums.shape} and type {sums.dtype} for {rows} rows; wanted one uint32 per {step} rows"
        yield Problem(path, "crc32", "", what, MENDS["features"])
        return
    for block, values in enumerate(_blocks(root / path, opened, file)):
        yield from _check_block(values, path, block=block, start=block * step, wanted=int(sums[block]))


def _blocks(path: Path, opened: FeatureFile, file: Any) -> Iterator[NDArray[Any]]:
    """The rows of a feature file, one block after the other in the same memory."""
    features, step = opened.features, opened.header.block_rows
    if not isinstance(features, np.memmap):  # empty, or in chunks that lie apart
        yield from (file["features"][start : start + step] for start in range(0, len(features), step))
        return
    buffer = np.empty((min(step, len(features)), *features.shape[1:]), dtype=features.dtype)
    with path.open("rb", buffering=0) as raw:
        raw.seek(features.offset)
        for start in range(0, len(features), step):
            rows = buffer[: min(step, len(features) - start)]
            _fill(raw, rows)
            yield rows


def _check_block(rows: NDArray[Any], path: str, *, block: int, start: int, wanted: int) -> Iterator[Problem]:
    where = f"block {block} (rows {start} to {start + len(rows) - 1})"
    if zlib.crc32(rows.data) != wanted:
        what = f"the rows do not match their checksum, crc32[{block}]: which of the two has changed cannot be told"
        yield Problem(path, "features", where, what, MENDS["features"])
    bad = not_finite(rows)
    if len(bad):
        where = f"block {block}, {name_rows((bad + start).tolist())}"
        yield Problem(path, "features", where, "NaN or infinity", MENDS["features"])


def _fill(file: Any, rows: NDArray[Any]) -> None:
    """Read exactly the bytes of `rows`; one read returns at most 2 GiB."""
    left = rows.data.cast("B")
    while left:
        done = file.readinto(left)
        if not done:
            msg = f"{len(left)} bytes are missing: the file was cut short while it was read"
            raise OSError(msg)
        left = left[done:]


def _datasets(file: Any) -> dict[str, Any]:
    import h5py

    return {name: item for name, _, item in _walk(file) if isinstance(item, h5py.Dataset)}


def _elsewhere(file: Any) -> Iterator[tuple[str, str]]:
    """Names whose bytes come from another file or place, and from which."""
    import h5py

    for name, link, item in _walk(file):
        if item is None:
            yield name, getattr(link, "filename", link.path)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            yield name, "another file"


def _walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, link and object of all that a group holds; no object where the link leads elsewhere.

    h5py's own visitors end in a SystemError where a damaged name is no text.
    """
    import h5py

    for name in group:
        if isinstance(name, bytes):
            msg = f"the name {name!r} in /{prefix} is no text"
            raise DamagedFileError(msg)
        link = group.get(name, getlink=True)
        item = group[name] if isinstance(link, h5py.HardLink) else None
        yield prefix + name, link, item
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{prefix}{name}/")
