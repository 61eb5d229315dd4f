"""The catalogue at rest: columns per folder, compared with the files before they are trusted."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from .errors import StoreError
from .files.atomic import atomic_path
from .files.schema import CATALOG as ENCODING
from .store_folder import check_store


class Entry(NamedTuple):
    """One file of a store (a named tuple, as there may be 50,000 of them).

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
    mpp
        Of a slide, um per level-0 pixel; of features, um per pixel of what the encoder saw.
    fov_um, upsampling, precision
        Of features: side of the field, how far pixels were enlarged, precision of the forward pass.
    sha256
        Of all bytes of a file of counts; of patches their digest, which features made on them carry.
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
    fov_um: float = 0.0
    upsampling: float = 0.0
    precision: str = ""
    sha256: str = ""
    problem: str = ""


STAT = ("slide_id", "size", "mtime_ns")
"""Columns that the file system tells."""

_THREADS = 4
"""Folders looked through beside one another: a network drive answers each look at a file after a while."""

_DEFAULTS = Entry._field_defaults


@dataclass(frozen=True)
class Folder:
    """The rows of one folder of files of one kind, as columns.

    Attributes
    ----------
    path
        Relative to the store.
    columns
        Values per file by the names of `Entry`, sorted by file name; a column that is not there is all default.
    """

    kind: str
    path: str
    suffix: str
    patches: str
    key: str
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["slide_id"])

    def column(self, name: str) -> list[Any]:
        """Values of one field of `Entry`, one per file."""
        if name in self.columns:
            return self.columns[name]
        if name == "path":
            return [f"{self.path}/{slide_id}{self.suffix}" for slide_id in self.columns["slide_id"]]
        return [_DEFAULTS[name] if name in _DEFAULTS else getattr(self, name)] * len(self)

    def entries(self) -> Iterator[Entry]:
        """One `Entry` per file."""
        return map(Entry._make, zip(*(self.column(name) for name in Entry._fields), strict=True))

    def same_files(self, other: Folder) -> bool:
        """Whether both speak of the same files, unchanged."""
        return [self.columns[name] for name in STAT] == [other.columns[name] for name in STAT]


def list_folders(root: Path) -> tuple[Folder, ...]:
    """Every folder of the four kinds with its files, in a fixed order. Partial files start with a dot.

    Raises
    ------
    StoreError
        If `root` is no store.
    """
    check_store(root)
    found = [("slide", "slides", ".h5", "", "")]
    found += [("patches", f"patches/{patches}", ".h5", patches, "") for patches in _folders(root / "patches")]
    for patches in _folders(root / "features"):
        for key in _folders(root / "features" / patches):
            found.append(("features", f"features/{patches}/{key}", ".h5", patches, key))
    found.append(("expression", "expression", ".h5ad", "", ""))
    with ThreadPoolExecutor(_THREADS) as pool:
        files = pool.map(lambda folder: _files(root / folder[1], folder[2]), found)
        return tuple(Folder(*folder, columns) for folder, columns in zip(found, files, strict=True))


def to_columns(entries: list[Entry]) -> dict[str, list[Any]]:
    """Rows of one folder as columns, without those that are all default."""
    columns = {name: [getattr(entry, name) for entry in entries] for name in (*STAT, *_DEFAULTS)}
    return {name: values for name, values in columns.items() if name in STAT or set(values) - {_DEFAULTS[name]}}


def _folders(parent: Path) -> list[str]:
    with _listing(parent) as (names, _):
        return sorted(name for name in names if name[0] != "." and (parent / name).is_dir())


def _files(parent: Path, suffix: str) -> dict[str, list[Any]]:
    """Slide ids, sizes and times of the files of a folder: one look at each file, as there may be 50,000."""
    slide_ids: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    with _listing(parent) as (names, descriptor):
        end = -len(suffix)
        for name in sorted(name for name in names if name.endswith(suffix) and name[0] != "."):
            try:
                stat = os.stat(name, dir_fd=descriptor)
            except FileNotFoundError:  # removed since, or a link to nothing
                continue
            slide_ids.append(name[:end])
            sizes.append(stat.st_size)
            times.append(stat.st_mtime_ns)
    return dict(zip(STAT, (slide_ids, sizes, times), strict=True))


@contextmanager
def _listing(parent: Path) -> Iterator[tuple[list[str], int]]:
    """Names in a folder, none where it is not there (any more), and its descriptor.

    Raises
    ------
    StoreError
        If it cannot be listed, or its files cannot be looked at: a store is never taken for a smaller one.
    """
    descriptor = -1
    try:
        try:
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            yield [], -1
        else:
            yield os.listdir(descriptor), descriptor  # noqa: PTH208
    except OSError as error:
        msg = f"{parent} cannot be listed ({error.strerror}): give yourself the right to read it, and run again"
        raise StoreError(msg) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


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
