"""The catalogue: one row per file of a store, rebuilt from the files at any time; the files are the truth."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .atomic import atomic_path
from .errors import StoreError
from .expression import read_expression
from .feature_file import read_features
from .patch_file import read_patches
from .slide_file import read_slide

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)

CATALOG = "catalog.parquet"


@dataclass(frozen=True)
class Entry:
    """One file of a store.

    Attributes
    ----------
    kind
        "slide", "patches", "features" or "expression".
    path
        Relative to the store.
    size, mtime_ns
        As the file system says; a difference makes the row stale.
    rows, dim, tokens
        Of patches, features and counts; 0 where it has no meaning.
    sha256
        Of expression files.
    problem
        Why the file cannot be read; empty where it can.
    """

    kind: str
    slide_id: str
    patches: str
    key: str
    path: str
    size: int
    mtime_ns: int
    patient_id: str = ""
    mpp: float = 0.0
    rows: int = 0
    dim: int = 0
    tokens: int = 0
    dtype: str = ""
    fingerprint: str = ""
    sha256: str = ""
    problem: str = ""


def load_catalog(root: Path) -> tuple[Entry, ...]:
    """Return the catalogue of a store, reading only the files that changed since it was written.

    Machines without polars, and folders that cannot be written, get the same rows without the Parquet file.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    if not root.is_dir():
        msg = f"{root} is no store: there is no such folder. Make one with `tissuary featurize SOURCE --store {root}`."
        raise StoreError(msg)
    known = {entry.path: entry for entry in _read_parquet(root / CATALOG)}
    listed = list(_list_files(root))
    entries = tuple(
        known[found.path]
        if found.path in known and (known[found.path].size, known[found.path].mtime_ns) == (found.size, found.mtime_ns)
        else _describe(root, found)
        for found in listed
    )
    if set(entries) != set(known.values()):
        _write_parquet(root / CATALOG, entries)
    return entries


def to_frame(entries: tuple[Entry, ...]) -> polars.DataFrame:
    """The catalogue as a polars frame, one row a file."""
    import polars

    types = {"int": polars.Int64, "float": polars.Float64, "str": polars.String}
    schema = {field.name: types[str(field.type)] for field in fields(Entry)}
    return polars.DataFrame([asdict(entry) for entry in entries], schema=schema)


def _list_files(root: Path) -> Iterator[Entry]:
    """Every file of the four kinds, undescribed, in a fixed order. Partial files start with a dot."""
    for path in _files(root / "slides", ".h5"):
        yield _found(root, path, kind="slide")
    for folder in _folders(root / "patches"):
        for path in _files(folder, ".h5"):
            yield _found(root, path, kind="patches", patches=folder.name)
    for folder in _folders(root / "features"):
        for key in _folders(folder):
            for path in _files(key, ".h5"):
                yield _found(root, path, kind="features", patches=folder.name, key=key.name)
    for path in _files(root / "expression", ".h5ad"):
        yield _found(root, path, kind="expression")


def _folders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir() and p.name[0] != ".") if parent.is_dir() else []


def _files(parent: Path, suffix: str) -> list[os.DirEntry[str]]:
    if not parent.is_dir():
        return []
    with os.scandir(parent) as found:
        return sorted((e for e in found if e.name.endswith(suffix) and e.name[0] != "."), key=lambda e: e.name)


def _found(root: Path, file: os.DirEntry[str], *, kind: str, patches: str = "", key: str = "") -> Entry:
    stat = file.stat()
    path = Path(file.path)
    slide_id = path.name.removesuffix(path.suffix)
    relative = path.relative_to(root).as_posix()
    return Entry(kind, slide_id, patches, key, relative, stat.st_size, stat.st_mtime_ns)


def _describe(root: Path, entry: Entry) -> Entry:
    """Fill in what the file says of itself; a damaged file is a row with a problem, not a failure of the whole."""
    path = root / entry.path
    try:
        if entry.kind == "slide":
            slide = read_slide(path)
            if slide.slide_id != entry.slide_id:
                return replace(
                    entry, problem=f"{path} says that it is slide {slide.slide_id}: it was renamed or copied"
                )
            return replace(entry, patient_id=slide.patient_id, mpp=slide.mpp)
        if entry.kind == "patches":
            return replace(entry, rows=len(read_patches(path)))
        if entry.kind == "expression":
            rows, genes = read_expression(path).counts.shape
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return replace(entry, rows=rows, dim=genes, sha256=sha256)
        opened = read_features(path)
        shape = opened.features.shape
        return replace(
            entry,
            rows=shape[0],
            dim=shape[-1],
            tokens=shape[1] if len(shape) == 3 else 0,
            dtype=opened.features.dtype.name,
            fingerprint=opened.header.fingerprint,
            mpp=opened.header.mpp,
        )
    except StoreError as error:
        log.warning("%s", error)
        return replace(entry, problem=str(error))


def _read_parquet(path: Path) -> tuple[Entry, ...]:
    try:
        import polars
    except ImportError:
        return ()
    if not path.is_file():
        return ()
    try:
        rows = polars.read_parquet(path).to_dicts()
        return tuple(Entry(**row) for row in rows)
    except (polars.exceptions.PolarsError, OSError, TypeError) as error:
        log.warning("%s cannot be read (%s); it is rebuilt from the files", path, error)
        return ()


def _write_parquet(path: Path, entries: tuple[Entry, ...]) -> None:
    try:
        frame = to_frame(entries)
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary)
    except (ImportError, StoreError) as error:
        log.debug("catalogue kept in memory only: %s", error)
