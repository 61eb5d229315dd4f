"""The catalogue at rest: columns per folder, compared with the files before they are trusted."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .atomic import atomic_path
from .catalog_rows import STAT, Folder, list_folders
from .schema import CATALOG as ENCODING

log = logging.getLogger(__name__)

CATALOG = "catalog.parquet"
COLUMNS = "catalog.json"


@dataclass(frozen=True)
class SavedCatalog:
    """A catalogue as it was written.

    Attributes
    ----------
    parquet
        Size and time of the `catalog.parquet` that has the same rows; None where nobody could write one.
    """

    folders: tuple[Folder, ...]
    parquet: list[int] | None


def load_folders(root: Path) -> tuple[Folder, ...]:
    """Rows of every file, as columns: from the catalogue where nothing changed since, else brought up to date.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    listed = list_folders(root)
    saved = read_columns(root)
    if saved is not None and _is_current(root, saved, listed):
        return saved.folders
    from .catalog import rebuild

    return rebuild(root, listed, () if saved is None else saved.folders)


def read_columns(root: Path) -> SavedCatalog | None:
    """The catalogue as it was written, or None where there is none that can be read."""
    path = root / COLUMNS
    try:
        saved = json.loads(path.read_bytes())
        found = (saved["encoding-type"], saved["encoding-version"])
        if found != (ENCODING.type, ENCODING.version):
            log.warning("%s is %s version %s; it is rebuilt from the files", path, *found)
            return None
        folders = tuple(Folder(path=path, **fields) for path, fields in saved["folders"].items())
        for folder in folders:
            if {len(values) for values in folder.columns.values()} - {len(folder)} or set(STAT) - set(folder.columns):
                msg = f"columns of {folder.path} differ in length"
                raise ValueError(msg)
        return SavedCatalog(folders, saved["parquet"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); it is rebuilt from the files", path, error)
        return None


def write_columns(root: Path, folders: tuple[Folder, ...]) -> None:
    """Write the rows of every folder, and which `catalog.parquet` they agree with.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    content = {
        "encoding-type": ENCODING.type,
        "encoding-version": ENCODING.version,
        "parquet": _stat(root / CATALOG),
        "folders": {
            folder.path: {
                "kind": folder.kind,
                "suffix": folder.suffix,
                "patches": folder.patches,
                "key": folder.key,
                "columns": folder.columns,
            }
            for folder in folders
        },
    }
    with atomic_path(root / COLUMNS) as temporary:
        temporary.write_text(json.dumps(content))


def _is_current(root: Path, saved: SavedCatalog, listed: tuple[Folder, ...]) -> bool:
    """Whether a catalogue speaks of the files that are there, and its copy in Parquet is the one written with it."""
    if saved.parquet != _stat(root / CATALOG) or (saved.parquet is None and find_spec("polars") is not None):
        return False
    same_paths = [folder.path for folder in saved.folders] == [folder.path for folder in listed]
    return same_paths and all(one.same_files(two) for one, two in zip(saved.folders, listed, strict=True))


def _stat(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
