"""A search index on disk: vectors or inverted lists, the row map, the standardisation, and what they are made of."""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, StoreError, plain_reason
from ..files.atomic import atomic_path
from ..files.column import FeatureColumn
from ..files.schema import INDEX
from .exact import flat_index
from .flat import BLOCK_ROWS, FlatIndex
from .ivf import IvfIndex
from .record import IndexRecord
from .search import SearchIndex
from .stored import StoredVectors

META = "index.json"

ARRAYS = ("slide", "row", "center_um", "shift", "scale")

_NO_DIGEST = "0" * 64


def save_index(folder: Path, index: SearchIndex) -> None:
    """Write an index folder.

    `index.json` names the two data files and is replaced last, in one step; a reader, or a kill at any moment, finds
    the old index or the new one.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    version = uuid.uuid4().hex[:8]
    ending = "npy" if index.ivf is None else "faiss"
    files = {"vectors": f"vectors-{version}.{ending}", "rows": f"rows-{version}.npz"}
    with atomic_path(folder / files["vectors"]) as temporary:
        _write_vectors(index, temporary)
    with atomic_path(folder / files["rows"]) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: getattr(index, name) for name in ARRAYS})
    meta = {
        "encoding-type": INDEX.type,
        "encoding-version": INDEX.version,
        "record": asdict(index.record),
        "files": files,
        "sha256": {name: _sha256(folder / name) for name in files.values()},
        "digest": _NO_DIGEST,
    }
    text = json.dumps(meta, indent=1).encode()
    with atomic_path(folder / META) as temporary:
        temporary.write_bytes(text.replace(_NO_DIGEST.encode(), own_digest(text, _NO_DIGEST).encode()))
    for old in folder.iterdir():
        if old.name not in (META, *files.values()) and not old.name.startswith("."):
            old.unlink(missing_ok=True)


def load_index(
    folder: Path,
    open_column: Callable[[IndexRecord], FeatureColumn] | None = None,
    *,
    device: str = "cpu",
    lists: bool = True,
) -> SearchIndex:
    """Read an index folder.

    Parameters
    ----------
    open_column
        Opens the features of the index's slides, in its order; needed for inverted lists only, whose candidates are
        scored with the features as they are stored.
    device
        Where an exact index searches: "cpu", "cuda" or "auto".
    lists
        Whether to read inverted lists; an exact search of the features does without them, and without FAISS.

    Raises
    ------
    StoreError
        If it is missing, of another version, its files are not those that were written, or `open_column` is needed.
    MissingDependencyError
        If it is made of inverted lists and FAISS is not installed.
    """
    meta = read_meta(folder)
    record = IndexRecord.from_json(meta["record"])
    unread = meta["files"]["vectors"] if record.kind == "ivf" and not lists else ""
    for name, digest in meta["sha256"].items():
        if name != unread and not _is_as_written(folder / name, digest):
            msg = f"{folder / name} is missing or not what was written: run `tissuary index` again"
            raise StoreError(msg)
    arrays, base = _read_arrays(folder, meta, vectors=record.kind == "exact")
    if base is not None:
        return SearchIndex(record, flat_index(base, longest=record.longest, device=device), **arrays)
    if open_column is None:
        msg = f"the inverted lists of {folder} are scored with the features: open them through `Store`"
        raise StoreError(msg)
    column = open_column(record)
    column = FeatureColumn(column.key, column.fingerprint, column.parts, arrays["shift"], arrays["scale"])
    unit = record.metric == "cosine"
    flat = StoredVectors(column, arrays["slide"], arrays["row"], unit=unit, longest=record.longest)
    return SearchIndex(record, flat, **arrays, ivf=_read_ivf(folder / meta["files"]["vectors"]) if lists else None)


def _read_arrays(folder: Path, meta: dict[str, Any], *, vectors: bool) -> tuple[dict[str, Any], Any]:
    """Row map and standardisation, and the vectors where they are asked for; pickled objects are refused."""
    rows, base = folder / meta["files"]["rows"], folder / meta["files"]["vectors"]
    try:
        with np.load(rows, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
        return arrays, np.load(base, allow_pickle=False) if vectors else None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{folder} does not hold the arrays of an index ({plain_reason(error)}): run `tissuary index` again"
        raise StoreError(msg) from error


def read_meta(folder: Path) -> dict[str, Any]:
    """`index.json` of an index folder, checked against its own digest.

    Raises
    ------
    StoreError
        If it is missing, of another version, or not what was written.
    """
    path = folder / META
    if not path.is_file():
        msg = f"there is no index {folder.name!r} in this store: make it with `tissuary index {folder.parent.parent}`"
        raise StoreError(msg)
    raw = path.read_bytes()
    try:
        meta: dict[str, Any] = json.loads(raw)
        found = (meta.get("encoding-type"), meta.get("encoding-version"))
    except (ValueError, AttributeError) as error:
        msg = f"{path} is no JSON of an index ({error}): run `tissuary index` again"
        raise StoreError(msg) from error
    if found != (INDEX.type, INDEX.version):
        wanted = f"{INDEX.type} version {INDEX.version}"
        msg = f"{path} is {found[0]} version {found[1]}; wanted {wanted}: run `tissuary index` again"
        raise StoreError(msg)
    digest = str(meta.get("digest"))
    if own_digest(raw, digest) != digest or not _names_are_plain(meta):
        msg = f"{path} is not what was written: run `tissuary index` again"
        raise StoreError(msg)
    return meta


def _names_are_plain(meta: dict[str, Any]) -> bool:
    """Whether the files that a record names lie in its own folder; who makes a digest can write any name."""
    return all(Path(name).name == name for name in (*meta["sha256"], *meta["files"].values()))


def own_digest(raw: bytes, digest: str) -> str:
    """sha256 of the bytes of `index.json`, in which its own digest counts as zeros."""
    given, blank = (f'"digest": "{value}"'.encode() for value in (digest, _NO_DIGEST))
    return hashlib.sha256(raw.replace(given, blank)).hexdigest()


def _write_vectors(index: SearchIndex, path: Path) -> None:
    if index.ivf is None:
        _write_npy(index.flat, path)
        return
    import faiss

    try:
        faiss.write_index(index.ivf.index, str(path))
    except RuntimeError as error:  # FAISS reports a full disk so
        msg = f"cannot write {path.parent}: {error}. Free some space and run `tissuary index` again."
        raise StoreError(msg) from error


def _write_npy(flat: FlatIndex, path: Path) -> None:
    """All vectors as one `.npy`, a block at a time, so that an index on a GPU needs no second copy."""
    n = flat.ntotal
    dim = flat.vectors(np.zeros(min(n, 1), dtype=np.int64)).shape[1]
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, n))
            file.write(np.ascontiguousarray(flat.vectors(rows), dtype="<f4").tobytes())


def _read_ivf(path: Path) -> IvfIndex:
    try:
        import faiss
    except ImportError as error:
        msg = (
            "reading inverted lists needs FAISS: pip install 'tissuary[cpu]' (or [gpu]), or search with `--exact`, "
            "which reads every row and needs none"
        )
        raise MissingDependencyError(msg) from error
    return IvfIndex(faiss.read_index(str(path)))


def _is_as_written(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
