"""The file format, version 1, as constants: encodings, dataset names, attributes, where files lie.

`docs/format.md` says the same in prose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DamagedFileError, StoreError
from .foreign import mend_encoding, tool_of
from .naming import SPOTS, FeatureKey, check_name


@dataclass(frozen=True)
class Encoding:
    """What a file says it is, in its root attributes `encoding-type` and `encoding-version`."""

    type: str
    version: str

    def __str__(self) -> str:
        return f"{self.type} version {self.version}"


SLIDE = Encoding("tissuary-slide", "1")
PATCHES = Encoding("tissuary-patches", "1")
FEATURES = Encoding("tissuary-features", "1")
EXPRESSION = Encoding("anndata", "0.1.0")
INDEX = Encoding("tissuary-index", "2")
CATALOG = Encoding("tissuary-catalog", "2")

DAMAGE = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OverflowError, SystemError)
"""What h5py, numpy and json raise of a file whose bytes were changed: lost names, absurd sizes, broken text.

h5py turns an error inside a visit of links, such as a name that is no text, into `SystemError`.
"""

ALIGNMENT_BYTES = 4096
"""Datasets of a page or more start on a page, as a memory map and the page cache like it."""


def slide_path(root: Path, slide_id: str) -> Path:
    """Path of a slide's file."""
    return root / "slides" / f"{check_name(slide_id, 'slide id')}.h5"


def patches_path(root: Path, slide_id: str, *, patches: str = SPOTS) -> Path:
    """Path of a slide's patch centres."""
    return root / "patches" / check_name(patches, "patch set") / f"{check_name(slide_id, 'slide id')}.h5"


def features_path(root: Path, slide_id: str, *, key: str, patches: str = SPOTS) -> Path:
    """Path of a slide's features under one key."""
    folder = root / "features" / check_name(patches, "patch set") / str(FeatureKey.parse(key))
    return folder / f"{check_name(slide_id, 'slide id')}.h5"


def expression_path(root: Path, slide_id: str) -> Path:
    """Path of a slide's raw counts."""
    return root / "expression" / f"{check_name(slide_id, 'slide id')}.h5ad"


def index_path(root: Path, name: str) -> Path:
    """Folder of a search index."""
    return root / "indexes" / check_name(name, "index name")


def qc_path(root: Path, slide_id: str) -> Path:
    """Path of the picture of where was looked on a slide."""
    return root / "qc" / f"{check_name(slide_id, 'slide id')}.jpg"


@contextmanager
def create_h5(path: Path, encoding: Encoding) -> Iterator[Any]:
    """Open a new, page-aligned HDF5 file that carries `encoding`; its attributes get a checksum in the end."""
    import h5py

    from .checksums import seal_attributes  # needs numpy, which a command that only names paths does not wait for

    file = h5py.File(
        path,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=ALIGNMENT_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    )
    try:
        file.attrs["encoding-type"] = encoding.type
        file.attrs["encoding-version"] = encoding.version
        yield file
        seal_attributes(file)
    finally:
        try:
            file.close()
        except (OSError, RuntimeError) as error:  # what h5py says of a full disk
            msg = f"cannot finish {path.parent}: {error}. Is the disk full? Free some space and run again."
            raise StoreError(msg) from error


@contextmanager
def open_h5(path: Path, encoding: Encoding) -> Iterator[Any]:
    """Open an HDF5 file for reading and refuse it unless it says that it is `encoding`.

    Raises
    ------
    StoreError
        If the file is missing, is no (whole) HDF5 file, or is of another type or version.
    """
    import h5py

    if not path.is_file():
        msg = f"{path} does not exist: featurize the slide first, or check the name with `tissuary status`"
        raise StoreError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno is not None:  # the file is not to blame: no permission, too many open files, a lock on it
            msg = f"{path} cannot be opened now ({error}): correct what keeps it from being read, and run again"
            raise StoreError(msg) from error
        msg = f"{path} is not a whole HDF5 file ({error}). Delete it and run featurize again: it will be rewritten."
        raise DamagedFileError(msg) from error
    with file, _contents_of(path):
        found = Encoding(str(file.attrs.get("encoding-type", "none")), str(file.attrs.get("encoding-version", "none")))
        if found != encoding:
            mend = mend_encoding(found, encoding, tool=tool_of(file))
            msg = f"{path} says that it is {found}; wanted {encoding}. {mend}"
            raise StoreError(msg)
        yield file


@contextmanager
def _contents_of(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or foreign file raises into one error that names the file."""
    try:
        yield
    except StoreError:
        raise
    except DAMAGE as error:
        msg = f"{path} does not hold what its format says ({error}): delete it and run featurize again"
        raise DamagedFileError(msg) from error


def required(attributes: Any, name: str, path: Path) -> Any:
    """Return attribute `name` of an opened file, or say that it is missing."""
    if name not in attributes:
        msg = f"{path} lacks the attribute {name!r} of its format: it was damaged or written by something else"
        raise DamagedFileError(msg)
    return attributes[name]
