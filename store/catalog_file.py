"""The catalogue at rest: columns per folder, compared with the files before they are trusted."""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .atomic import atomic_path
from .catalog_rows import STAT, Folder, list_folders
from .schema import CATALOG as ENCODING

log = logging.getLogger(__name__)

CATALOG = "catalog.parquet"
COLUMNS = "catalog.json"

YOUNG_NS = 2_000_000_000
"""A file this young when it is read may be written again within the same tick: FAT counts in steps of two seconds."""

_NO_CRC = "00000000"


@dataclass(frozen=True)
class SavedCatalog:
    """A catalogue as it was written.

    Attributes
    ----------
    parquet
        Size and time of the `catalog.parquet` that has the same rows; None where nobody could write one.
    unsure
        Paths of files that are opened again although nothing about them seems to have changed: those with a problem
        (a right may have been given since, a newer version installed), and those that were young when they were read.
    """

    folders: tuple[Folder, ...]
    parquet: list[int] | None
    unsure: tuple[str, ...] = ()


def saved_folders(root: Path) -> tuple[Folder, ...] | None:
    """Rows of every file, as columns, from the catalogue; None where there is none, or a file changed since.

    Raises
    ------
    StoreError
        If `root` is no folder, or cannot be listed.
    """
    listed = list_folders(root)
    saved = read_columns(root)
    return saved.folders if saved is not None and is_current(root, saved, listed) else None


def read_columns(root: Path) -> SavedCatalog | None:
    """The catalogue as it was written, or None where there is none that can be read."""
    path = root / COLUMNS
    try:
        raw = path.read_bytes()
        saved = json.loads(raw)
        found = (saved["encoding-type"], saved["encoding-version"])
        if found != (ENCODING.type, ENCODING.version):
            log.warning("%s is %s version %s; it is rebuilt from the files", path, *found)
            return None
        if own_crc32(raw, saved["crc32"]) != saved["crc32"]:
            msg = "it does not match its checksum"
            raise ValueError(msg)
        folders = tuple(Folder(path=path, **fields) for path, fields in saved["folders"].items())
        for folder in folders:
            if {len(values) for values in folder.columns.values()} - {len(folder)} or set(STAT) - set(folder.columns):
                msg = f"columns of {folder.path} differ in length"
                raise ValueError(msg)
        return SavedCatalog(folders, saved["parquet"], tuple(saved["unsure"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s cannot be read (%s); it is rebuilt from the files", path, error)
        return None


def write_columns(root: Path, saved: SavedCatalog) -> None:
    """Write the rows of every folder, and which `catalog.parquet` they agree with.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    content = {
        "encoding-type": ENCODING.type,
        "encoding-version": ENCODING.version,
        "crc32": _NO_CRC,
        "parquet": saved.parquet,
        "unsure": saved.unsure,
        "folders": {
            folder.path: {
                "kind": folder.kind,
                "suffix": folder.suffix,
                "patches": folder.patches,
                "key": folder.key,
                "columns": folder.columns,
            }
            for folder in saved.folders
        },
    }
    raw = json.dumps(content).encode()
    with atomic_path(root / COLUMNS) as temporary:
        temporary.write_bytes(raw.replace(_field(_NO_CRC), _field(own_crc32(raw, _NO_CRC)), 1))


def own_crc32(raw: bytes, crc32: Any) -> str:
    """crc32 of the bytes of `catalog.json`, in which it counts itself as zeros, as 8 hexadecimal digits."""
    return f"{zlib.crc32(raw.replace(_field(crc32), _field(_NO_CRC), 1)):08x}"


def stat_of(path: Path) -> list[int] | None:
    """Size and time of a file, or None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _field(crc32: Any) -> bytes:
    return f'"crc32": "{crc32}"'.encode()


def has_parquet(root: Path, saved: SavedCatalog) -> bool:
    """Whether the Parquet written with a catalogue is there, or none is wanted on this machine."""
    if saved.parquet is None and find_spec("polars") is not None:
        return False
    return saved.parquet == stat_of(root / CATALOG)


def is_current(root: Path, saved: SavedCatalog, listed: tuple[Folder, ...]) -> bool:
    """Whether a catalogue speaks of the files that are there, and its copy in Parquet is the one written with it."""
    if saved.unsure or not has_parquet(root, saved):
        return False
    same_paths = [folder.path for folder in saved.folders] == [folder.path for folder in listed]
    return same_paths and all(one.same_files(two) for one, two in zip(saved.folders, listed, strict=True))
