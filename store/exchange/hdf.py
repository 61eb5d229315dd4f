"""Reading HDF5 files of strangers: what is missing, of another shape or kept elsewhere is named, never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Ints, Strings
from ..errors import DamagedFileError, StoreError, plain_reason

EXACT_CENTERS = "tissuary_center"
"""Dataset float64 (n, 2) of an export whose format would round the centres."""

EXACT_BARCODES = "tissuary_barcode"
"""Dataset utf-8 (n,) of an export whose format has no place for names of rows."""

ARRAY = "tissuary_array"
"""Dataset int32 (n, 2) of an export whose format has no place for row and column on an array."""

MOST_PX = 2.0**31
"""No slide is as wide: a larger size or coordinate is damage."""

_DAMAGE = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OverflowError, MemoryError)

_MOST_PACKED = 1100
"""Largest ratio that gzip can reach: a dataset larger than this many times its file is damage, not data."""


@contextmanager
def open_foreign(path: Path) -> Iterator[Any]:
    """Open an HDF5 file of another tool; whatever reading it raises becomes an error that names it.

    Raises
    ------
    StoreError
        If it is missing, is no (whole) HDF5 file, or does not hold what the tool's format says.
    """
    import h5py

    if not path.is_file():
        msg = f"{path} does not exist: check the path"
        raise StoreError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path} is not a whole HDF5 file ({error}): get it again from where it was made"
        raise DamagedFileError(msg) from error
    with file:
        try:
            yield file
        except StoreError:
            raise
        except _DAMAGE as error:
            msg = f"{path} does not hold what its format says ({plain_reason(error)}): get it again from its source"
            raise DamagedFileError(msg) from error


def array_of(file: Any, name: str) -> Any:
    """Return dataset `name`, refused where it is missing or its bytes lie in another file."""
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        held = ", ".join(sorted(file)) or "nothing"
        msg = f"{file.filename} holds no dataset {name!r}; it holds {held}. Is it of the format that was named?"
        raise StoreError(msg)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        msg = f"{file.filename}: {name!r} must be a dataset inside this file; links to other files are not followed"
        raise StoreError(msg)
    return dataset


def values_of(file: Any, name: str) -> Any:
    """Return dataset `name` whole, refused where it claims more than the file can hold, or was never written whole."""
    dataset = array_of(file, name)
    packed = dataset.id.get_create_plist().get_nfilters() > 0
    if dataset.nbytes > Path(file.filename).stat().st_size * (_MOST_PACKED if packed else 1):
        msg = f"{file.filename}: {name!r} says that it is {dataset.shape}, more than the file holds: it is damaged"
        raise DamagedFileError(msg)
    if _has_holes(dataset):  # HDF5 reads them as zeros
        msg = f"{file.filename}: {name!r} was never written whole, the tool was cut off: make the file again"
        raise DamagedFileError(msg)
    return np.asarray(dataset[()])


def _has_holes(dataset: Any) -> bool:
    """Whether space was announced and nothing written there."""
    if dataset.chunks is None:
        return bool(dataset.size) and dataset.id.get_storage_size() == 0
    wanted = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() < wanted)


def points_of(file: Any, name: str = "coords") -> Floats:
    """Return `name` as (n, 2) float64; a squeezed (2,) is one point, (0,) is none."""
    values: Floats = values_of(file, name).astype(np.float64)
    if values.size == 0:
        return np.empty((0, 2))
    if values.shape == (2,):
        values = values[np.newaxis]
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        msg = f"{file.filename}: {name!r} is {values.shape}; wanted finite (n, 2), x then y"
        raise StoreError(msg)
    if np.abs(values).max() >= MOST_PX:
        msg = f"{file.filename}: {name!r} reaches {np.abs(values).max():g}, where no slide does: it is damaged"
        raise DamagedFileError(msg)
    return values


def vectors_of(file: Any, name: str, *, tokens: bool = False) -> Floats:
    """Return features `name`, (n, dim), or with `tokens` (n, tokens, dim) too, of the type that the file has.

    Raises
    ------
    StoreError
        If they are one vector for a whole slide, hold NaN or infinity, or are no floating-point numbers.
    """
    return checked_vectors(values_of(file, name), f"{file.filename}: {name!r}", tokens=tokens)


def checked_vectors(values: Any, what: str, *, tokens: bool = False) -> Floats:
    """Check features that were read as `what`, and give them this machine's byte order."""
    if values.size == 0:
        return np.empty((0, values.shape[-1] if values.ndim > 1 else 0), dtype=np.float32)
    if values.ndim == 1:
        msg = f"{what} is {values.shape}, one vector of a whole slide: a store holds features of patches"
        raise StoreError(msg)
    if values.dtype.kind != "f" or not 2 <= values.ndim <= (3 if tokens else 2):
        wanted = "(n, dim) or (n, tokens, dim)" if tokens else "(n, dim)"
        msg = f"{what} is {values.dtype} {values.shape}; wanted floating-point {wanted}"
        raise StoreError(msg)
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        msg = f"{what}: row {row} holds NaN or infinity; extract it again with the tool that made it"
        raise StoreError(msg)
    if np.abs(values).max() > np.finfo(np.float32).max:
        msg = f"{what} is {values.dtype} and leaves the range of float32, the widest that a store holds"
        raise StoreError(msg)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def names_of(file: Any, name: str) -> Strings:
    """Return strings `name` (n,) from (n,) or (n, 1), of fixed or variable length, or a `nullable-string-array`."""
    import h5py

    if file.get(name, getclass=True, getlink=True) is h5py.HardLink and isinstance(file[name], h5py.Group):
        if values_of(file, f"{name}/mask").any():
            msg = f"{file.filename}: {name!r} lacks some of its names; wanted one for every row"
            raise StoreError(msg)
        name = f"{name}/values"  # anndata 0.13 writes strings so
    values = values_of(file, name).reshape(-1)
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()], dtype=np.str_)


@dataclass(frozen=True)
class Extras:
    """Datasets that an export adds where its format would lose them; None in files of others."""

    center_px: Floats | None
    barcode: Strings | None
    array: Ints | None


def extras_in(file: Any) -> Extras:
    """Read what an export added."""
    return Extras(
        points_of(file, EXACT_CENTERS) if EXACT_CENTERS in file else None,
        names_of(file, EXACT_BARCODES) if EXACT_BARCODES in file else None,
        points_of(file, ARRAY).astype(np.int32) if ARRAY in file else None,
    )


def text(attributes: Any, name: str) -> str | None:
    """An attribute as text; the string 'None' and nothing at all are None."""
    value = attributes.get(name)
    if isinstance(value, bytes):
        value = value.decode()
    return None if value is None or str(value) in ("None", "") else str(value)


def number(attributes: Any, name: str) -> float | None:
    """An attribute as a positive or zero number, or None where the file does not say.

    Raises
    ------
    StoreError
        If it is there and no such number.
    """
    value = text(attributes, name)
    if value is None:
        return None
    try:
        found = float(value)
    except ValueError:
        found = np.nan
    if not (np.isfinite(found) and found >= 0):
        msg = f"attribute {name!r} is {value!r}; wanted a number"
        raise StoreError(msg)
    return found


TOLERANCE = 0.02
"""How far a corner may lie beside its place, in steps; rounding to float32 or whole pixels moves it far less."""


def lattice_step(corners: Floats) -> float | None:
    """Step of the square lattice that corners (n, 2) lie on; None where they lie on none, or are fewer than two.

    The smallest distance between two columns or rows is the first guess; the whole extent over its number of steps
    then takes the rounding of single coordinates out.

    Examples
    --------
    >>> lattice_step(np.array([[256.486, 0.0], [512.972, 0.0], [1025.944, 256.486]]))
    256.486
    """
    gaps = [np.diff(np.unique(axis)) for axis in np.asarray(corners, dtype=np.float64).T]
    joined = np.concatenate(gaps) if len(corners) else np.empty(0)
    largest = float(np.abs(corners).max()) if len(corners) else 0.0
    joined = joined[joined > 1e-6 * largest]  # the same column twice, but for rounding
    if not len(joined):
        return None
    guess = float(joined.min())
    steps = np.rint(joined / guess)
    refined = float(joined.sum() / steps.sum())
    if (np.abs(joined / refined - steps) > TOLERANCE).any():
        return None
    return round(refined, 6)


def array_of_lattice(corners: Floats) -> Ints | None:
    """Row and column (n, 2) of corners (n, 2) that lie on a lattice; None where they lie on none."""
    step = lattice_step(corners)
    return None if step is None else cells_of(corners, step)


def cells_of(corners: Floats, step: float) -> Ints:
    """Row and column (n, 2) int32 of corners (n, 2) on a lattice, counted from its upper left."""
    cells: Ints = np.rint((corners - corners.min(axis=0)) / step).astype(np.int32)
    return cells[:, ::-1]
