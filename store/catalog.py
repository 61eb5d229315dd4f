"""The catalogue: one row per file of a store, rebuilt from the files at any time; the files are the truth."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from .catalog_file import (
    CATALOG,
    YOUNG_NS,
    Entry,
    Folder,
    SavedCatalog,
    has_parquet,
    is_current,
    list_folders,
    read_columns,
    stat_of,
    to_columns,
    write_columns,
)
from .errors import StoreError
from .files.atomic import atomic_path, disk_errors
from .files.expression import Expression, read_expression
from .files.features import FeatureFile, read_features
from .files.patches import Patches, read_patches
from .files.schema import EXPRESSION, FEATURES, PATCHES, SLIDE, Encoding
from .files.slide import SlideRecord, read_slide

if TYPE_CHECKING:
    import polars

__all__ = ["CATALOG", "Entry", "load_catalog"]

log = logging.getLogger(__name__)

Contents = SlideRecord | Patches | FeatureFile | Expression

READERS: dict[Encoding, Callable[[Path], Contents]] = {
    SLIDE: read_slide,
    PATCHES: read_patches,
    FEATURES: read_features,
    EXPRESSION: read_expression,
}
"""What a file says it is -> its reader, which refuses every other file."""

ENCODINGS = {"slide": SLIDE, "patches": PATCHES, "features": FEATURES, "expression": EXPRESSION}
"""Kind of a row, by the folder of its file -> what the file must say it is."""

_THREADS = 4
"""Counts are hashed beside one another; HDF5 itself is used by one thread at a time."""

_KNOWN = Entry._fields.index("mtime_ns") + 1
"""So many fields of a row say which file it is, and in which state."""

_MANY = 2000
"""Files to open from which a user is told what takes so long."""


def load_folders(root: Path) -> tuple[Folder, ...]:
    """Rows of every file, as columns: from the catalogue where nothing changed since, else brought up to date.

    Raises
    ------
    StoreError
        If `root` is no folder, or cannot be listed.
    """
    listed = list_folders(root)
    saved = read_columns(root)
    if saved is not None and is_current(root, saved, listed):
        return saved.folders
    return rebuild(root, listed, saved=saved)


def load_catalog(root: Path) -> tuple[Entry, ...]:
    """Return the catalogue of a store, reading only the files that changed since it was written.

    Folders that cannot be written get the same rows without the files; machines without polars, without the Parquet.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    return tuple(entry for folder in load_folders(root) for entry in folder.entries())


def rebuild(root: Path, listed: Sequence[Folder], *, saved: SavedCatalog | None = None) -> tuple[Folder, ...]:
    """Open what is new, changed or unsure, keep the other rows, and write all of them.

    Parameters
    ----------
    listed
        The files as they are.
    saved
        An earlier catalogue.
    """
    before = {} if saved is None else {folder.path: folder for folder in saved.folders}
    unsure = set() if saved is None else set(saved.unsure)
    changed = [one for one in listed if not _is_kept(one, before.get(one.path), unsure)]
    known = {
        entry[:_KNOWN]: entry
        for folder in changed
        if folder.path in before
        for entry in before[folder.path].entries()
        if entry.path not in unsure
    }
    new = [entry for folder in changed for entry in folder.entries() if entry[:_KNOWN] not in known]
    opened, still_unsure = _open_all(root, new)
    known |= opened
    fresh = {one.path: to_columns([known[entry[:_KNOWN]] for entry in one.entries()]) for one in changed}
    folders = tuple(
        replace(one, columns=fresh[one.path] if one.path in fresh else before[one.path].columns) for one in listed
    )
    if saved is None or (folders, still_unsure) != (saved.folders, saved.unsure) or not has_parquet(root, saved):
        try:
            write_columns(root, SavedCatalog(folders, _write_parquet(root / CATALOG, folders), still_unsure))
        except StoreError as error:
            log.debug("catalogue kept in memory only: %s", error)
    return folders


def to_frame(entries: Sequence[Entry]) -> polars.DataFrame:
    """The catalogue as a polars frame, one row a file."""
    columns = zip(*entries, strict=True) if entries else [()] * len(Entry._fields)
    return _frame(dict(zip(Entry._fields, columns, strict=True)))


def fill_in(entry: Entry, contents: Contents, *, sha256: str = "") -> Entry:
    """The row of a file with what its contents say."""
    if isinstance(contents, SlideRecord):
        if contents.slide_id != entry.slide_id:
            problem = f"{entry.path} says that it is slide {contents.slide_id}: it was renamed or copied"
            return entry._replace(problem=problem)
        return entry._replace(patient_id=contents.patient_id, mpp=contents.mpp)
    if isinstance(contents, Patches):
        return entry._replace(rows=len(contents), sha256=contents.digest)
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
        fov_um=contents.header.fov_um,
        upsampling=contents.header.upsampling,
        precision=contents.header.precision,
    )


def read_contents(path: Path, kind: str) -> Contents:
    """Open a file of one of the kinds of `ENCODINGS` with the reader of what it must say that it is.

    Raises
    ------
    StoreError
        If it is damaged, foreign or of another version.
    """
    return READERS[ENCODINGS[kind]](path)


def file_sha256(path: Path) -> str:
    """sha256 over all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_kept(listed: Folder, saved: Folder | None, unsure: Collection[str]) -> bool:
    """Whether the saved rows of a folder stand as they are."""
    if saved is None or not saved.same_files(listed):
        return False
    return not any(path.startswith(f"{listed.path}/") for path in unsure)


def _open_all(root: Path, entries: Sequence[Entry]) -> tuple[dict[tuple[Any, ...], Entry], tuple[str, ...]]:
    """Rows of files by what the file system knows of them, and the paths of those that are to be read again."""
    if len(entries) > _MANY:
        log.warning("the catalogue of %s reads what %d files say of themselves; this happens once", root, len(entries))
    oldest_first = sorted(entries, key=lambda entry: entry.mtime_ns)  # those behind grow older meanwhile
    with ThreadPoolExecutor(_THREADS) as pool:
        opened = list(pool.map(lambda entry: (time.time_ns(), _opened(root, entry)), oldest_first))
    unsure = (row.path for at, row in opened if row.problem or abs(at - row.mtime_ns) <= YOUNG_NS)
    return {row[:_KNOWN]: row for _, row in opened}, tuple(sorted(unsure))


def _opened(root: Path, entry: Entry) -> Entry:
    """Open a file for its row; a damaged file is a row with a problem, not a failure of the whole."""
    path = root / entry.path
    try:
        contents = read_contents(path, entry.kind)
        return fill_in(entry, contents, sha256=file_sha256(path) if entry.kind == "expression" else "")
    except (StoreError, OSError, MemoryError) as error:  # absurd sizes in a damaged file ask for absurd memory
        problem = str(error) or f"{path} does not fit into memory"
        log.warning("%s", problem)
        return entry._replace(problem=problem)


def _write_parquet(path: Path, folders: Sequence[Folder]) -> list[int] | None:
    """Write every row; returns size and time of what was written, whoever else writes at this moment."""
    try:
        frame = _frame({name: [value for one in folders for value in one.column(name)] for name in Entry._fields})
    except ImportError:
        with disk_errors(path):
            path.unlink(missing_ok=True)  # it speaks of files that changed since, and nobody here can mend it
        return None
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        return stat_of(temporary)


def _frame(columns: Mapping[str, Sequence[Any]]) -> polars.DataFrame:
    import polars

    types = {int: polars.Int64, float: polars.Float64, str: polars.String}
    schema = {name: types[kind] for name, kind in get_type_hints(Entry).items()}
    return polars.DataFrame(columns, schema=schema)
