"""The catalogue: one row per file of a store, rebuilt from the files at any time; the files are the truth."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from .atomic import atomic_path
from .catalog_file import CATALOG, load_folders, write_columns
from .catalog_rows import Entry, Folder, to_columns
from .errors import StoreError
from .expression import Expression, read_expression
from .feature_file import FeatureFile, read_features
from .patch_file import Patches, read_patches
from .slide_file import SlideRecord, read_slide

if TYPE_CHECKING:
    import polars

__all__ = ["CATALOG", "Entry", "load_catalog"]

log = logging.getLogger(__name__)

Contents = SlideRecord | Patches | FeatureFile | Expression

_THREADS = 4
"""Counts are hashed beside one another; HDF5 itself is used by one thread at a time."""

_KNOWN = Entry._fields.index("mtime_ns") + 1
"""So many fields of a row say which file it is, and in which state."""

_MANY = 2000
"""Files to open from which a user is told what takes so long."""


def load_catalog(root: Path) -> tuple[Entry, ...]:
    """Return the catalogue of a store, reading only the files that changed since it was written.

    Folders that cannot be written get the same rows without the files; machines without polars, without the Parquet.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    return tuple(entry for folder in load_folders(root) for entry in folder.entries())


def rebuild(root: Path, listed: Sequence[Folder], saved: Sequence[Folder] = ()) -> tuple[Folder, ...]:
    """Open what is new or changed, keep the other rows, and write all of them.

    Parameters
    ----------
    listed
        The files as they are.
    saved
        Rows of an earlier catalogue.
    """
    known = {entry[:_KNOWN]: entry for folder in saved for entry in folder.entries()}
    found = {folder.path: list(folder.entries()) for folder in listed}
    new = [entry for entries in found.values() for entry in entries if entry[:_KNOWN] not in known]
    if len(new) > _MANY:
        log.warning("the catalogue of %s reads what %d files say of themselves; this happens once", root, len(new))
    with ThreadPoolExecutor(_THREADS) as pool:
        opened = {entry[:_KNOWN]: entry for entry in pool.map(lambda entry: _opened(root, entry), new)}
    known |= opened
    folders = tuple(
        replace(folder, columns=to_columns([known[entry[:_KNOWN]] for entry in found[folder.path]]))
        for folder in listed
    )
    try:
        _write_parquet(root / CATALOG, [entry for folder in folders for entry in folder.entries()])
        write_columns(root, folders)
    except StoreError as error:
        log.debug("catalogue kept in memory only: %s", error)
    return folders


def to_frame(entries: Sequence[Entry]) -> polars.DataFrame:
    """The catalogue as a polars frame, one row a file."""
    import polars

    types = {int: polars.Int64, float: polars.Float64, str: polars.String}
    schema = {name: types[kind] for name, kind in get_type_hints(Entry).items()}
    columns = zip(*entries, strict=True) if entries else [()] * len(schema)
    return polars.DataFrame(dict(zip(schema, columns, strict=True)), schema=schema)


def fill_in(entry: Entry, contents: Contents, *, sha256: str = "") -> Entry:
    """The row of a file with what its contents say."""
    if isinstance(contents, SlideRecord):
        if contents.slide_id != entry.slide_id:
            problem = f"{entry.path} says that it is slide {contents.slide_id}: it was renamed or copied"
            return entry._replace(problem=problem)
        return entry._replace(patient_id=contents.patient_id, mpp=contents.mpp)
    if isinstance(contents, Patches):
        return entry._replace(rows=len(contents))
    if isinstance(contents, Expression):
        rows, genes = contents.counts.shape
        return entry._replace(rows=rows, dim=genes, sha256=sha256)
    shape = contents.features.shape
    return entry._replace(
        rows=shape[0],
        dim=shape[-1],
        tokens=shape[1] if len(shape) == 3 else 0,
        dtype=contents.features.dtype.name,
        fingerprint=contents.header.fingerprint,
        mpp=contents.header.mpp,
    )


def read_contents(path: Path, kind: str) -> Contents:
    """Open a file of one of the four kinds.

    Raises
    ------
    StoreError
        If it is damaged, foreign or of another version.
    """
    if kind == "slide":
        return read_slide(path)
    if kind == "patches":
        return read_patches(path)
    return read_expression(path) if kind == "expression" else read_features(path)


def file_sha256(path: Path) -> str:
    """sha256 over all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(root: Path, entry: Entry) -> Entry:
    """Open a file for its row; a damaged file is a row with a problem, not a failure of the whole."""
    path = root / entry.path
    try:
        contents = read_contents(path, entry.kind)
        return fill_in(entry, contents, sha256=file_sha256(path) if entry.kind == "expression" else "")
    except (StoreError, OSError) as error:
        log.warning("%s", error)
        return entry._replace(problem=str(error))


def _write_parquet(path: Path, entries: Sequence[Entry]) -> None:
    try:
        frame = to_frame(entries)
    except ImportError:
        path.unlink(missing_ok=True)  # it speaks of files that changed since, and nobody here can mend it
        return
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary)
