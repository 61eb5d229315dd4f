"""A search index on disk: the FAISS index, the row map, the standardisation, and what they are made of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MissingDependencyError, StoreError
from .nearest import FaissFlat
from .schema import INDEX
from .search import IndexRecord, SearchIndex

_FAISS, _ROWS, _META = "index.faiss", "rows.npz", "index.json"


def save_index(folder: Path, index: SearchIndex) -> None:
    """Write an index folder; it replaces one of the same name only when whole.

    Raises
    ------
    MissingDependencyError
        If FAISS is not installed.
    """
    if not isinstance(index.flat, FaissFlat):
        msg = "a search index is kept by FAISS, which is not installed: pip install 'tissuary[cpu]' (or [gpu])"
        raise MissingDependencyError(msg)
    import faiss

    temporary = folder.parent / f".{folder.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        faiss.write_index(index.flat.index, str(temporary / _FAISS))
        np.savez(
            temporary / _ROWS,
            slide=index.slide,
            row=index.row,
            center_um=index.center_um,
            shift=index.shift,
            scale=index.scale,
        )
        meta = {
            "encoding-type": INDEX.type,
            "encoding-version": INDEX.version,
            "record": asdict(index.record),
            "sha256": {name: _sha256(temporary / name) for name in (_FAISS, _ROWS)},
        }
        (temporary / _META).write_text(json.dumps(meta, indent=1))
        if folder.exists():
            old = folder.parent / f"{temporary.name}-old"
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_index(folder: Path) -> SearchIndex:
    """Read an index folder.

    Raises
    ------
    StoreError
        If it is missing, of another version, or its files are not those that were written.
    MissingDependencyError
        If FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        msg = "reading a search index needs FAISS: pip install 'tissuary[cpu]' (or [gpu])"
        raise MissingDependencyError(msg) from error
    meta = _read_meta(folder)
    for name, digest in meta["sha256"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            msg = f"{folder / name} is missing or not what was written: run `tissuary index` again"
            raise StoreError(msg)
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in meta["record"].items()}
    record = IndexRecord(**fields)
    with np.load(folder / _ROWS, allow_pickle=False) as rows:
        arrays = {name: rows[name] for name in ("slide", "row", "center_um", "shift", "scale")}
    return SearchIndex(record=record, flat=FaissFlat(faiss.read_index(str(folder / _FAISS))), **arrays)


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    if not path.is_file():
        msg = f"there is no index {folder.name!r} in this store: make it with `tissuary index {folder.parent.parent}`"
        raise StoreError(msg)
    meta: dict[str, Any] = json.loads(path.read_text())
    found = (meta.get("encoding-type"), meta.get("encoding-version"))
    if found != (INDEX.type, INDEX.version):
        wanted = f"{INDEX.type} version {INDEX.version}"
        msg = f"{path} is {found[0]} version {found[1]}; wanted {wanted}: run `tissuary index` again"
        raise StoreError(msg)
    return meta


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
