"""The rows of the catalogue, and the files as the file system shows them.

Nothing here or in `catalog_file` loads numpy, h5py or polars, so that `tissuary status` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .errors import StoreError
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
