"""A search index on disk: the FAISS index, the row map, the standardisation, and what they are made of."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import atomic_path
from .errors import MissingDependencyError, StoreError
from .nearest import FaissFlat
from .schema import INDEX
from .search import IndexRecord, SearchIndex

_META = "index.json"


def save_index(folder: Path, index: SearchIndex) -> None:
    """Write an index folder.

    `index.json` names the two data files and is replaced last, in one step; a reader, or a kill at any moment, finds
    the old index or the new one.

    Raises
    ------
    MissingDependencyError
        If FAISS is not installed.
    StoreError
        If the folder cannot be written.
    """
    if not isinstance(index.flat, FaissFlat):
        msg = "a search index is kept by FAISS, which is not installed: pip install 'tissuary[cpu]' (or [gpu])"
        raise MissingDependencyError(msg)
    version = uuid.uuid4().hex[:8]
    files = {"faiss": f"vectors-{version}.faiss", "rows": f"rows-{version}.npz"}
    with atomic_path(folder / files["faiss"]) as temporary:
        _write_faiss(index.flat, temporary)
    with atomic_path(folder / files["rows"]) as temporary, temporary.open("wb") as file:
        arrays = {name: getattr(index, name) for name in ("slide", "row", "center_um", "shift", "scale")}
        np.savez(file, **arrays)
    meta = {
        "encoding-type": INDEX.type,
        "encoding-version": INDEX.version,
        "record": asdict(index.record),
        "files": files,
        "sha256": {name: _sha256(folder / name) for name in files.values()},
    }
    with atomic_path(folder / _META) as temporary:
        temporary.write_text(json.dumps(meta, indent=1))
    for old in folder.iterdir():
        if old.name not in (_META, *files.values()) and not old.name.startswith("."):
            old.unlink(missing_ok=True)


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
    with np.load(folder / meta["files"]["rows"], allow_pickle=False) as rows:
        arrays = {name: rows[name] for name in ("slide", "row", "center_um", "shift", "scale")}
    flat = FaissFlat(faiss.read_index(str(folder / meta["files"]["faiss"])))
    return SearchIndex(record=IndexRecord(**fields), flat=flat, **arrays)


def _write_faiss(flat: FaissFlat, path: Path) -> None:
    import faiss

    try:
        faiss.write_index(flat.index, str(path))
    except RuntimeError as error:  # FAISS reports a full disk so
        msg = f"cannot write {path.parent}: {error}. Free some space and run `tissuary index` again."
        raise StoreError(msg) from error


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    if not path.is_file():
        msg = f"there is no index {folder.name!r} in this store: make it with `tissuary index {folder.parent.parent}`"
        raise StoreError(msg)
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        msg = f"{path} is no JSON ({error}): run `tissuary index` again"
        raise StoreError(msg) from error
    found = (meta.get("encoding-type"), meta.get("encoding-version"))
    if found != (INDEX.type, INDEX.version):
        wanted = f"{INDEX.type} version {INDEX.version}"
        msg = f"{path} is {found[0]} version {found[1]}; wanted {wanted}: run `tissuary index` again"
        raise StoreError(msg)
    return meta


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
