"""The patch file: where on a slide was looked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays import Floats, Ints, Strings
from ..errors import DamagedFileError, StoreError
from .atomic import atomic_path
from .checksums import seal_datasets
from .schema import PATCHES, create_h5, open_h5


@dataclass(frozen=True)
class Patches:
    """Centres of the patches of one slide; all views share them.

    Attributes
    ----------
    center_px
        (n, 2) float64 level-0 pixels, x then y.
    barcode
        (n,) names of the rows.
    array
        (n, 2) int32 row and column on the array, where known.
    parent
        (n,) int32 row in the next coarser grid, where grids nest; -1 where that has no such tile.
    parent_set
        Name of that grid.
    """

    center_px: Floats
    barcode: Strings
    array: Ints | None = None
    parent: Ints | None = None
    parent_set: str | None = None

    def __len__(self) -> int:
        return len(self.center_px)

    @property
    def digest(self) -> str:
        """sha256 over centres and barcodes; feature files carry it, so that rows cannot be mistaken."""
        sha = hashlib.sha256(np.ascontiguousarray(self.center_px, dtype="<f8").tobytes())
        sha.update("\n".join(map(str, self.barcode)).encode())
        return sha.hexdigest()


def write_patches(path: Path, patches: Patches, *, slide_id: str) -> None:
    """Write the centres of one slide.

    Raises
    ------
    StoreError
        If barcodes repeat or hold line breaks, or lengths differ.
    """
    _check(patches, slide_id)
    _check_shapes(patches, f"slide {slide_id}")
    import h5py

    with atomic_path(path, once=True) as temporary, create_h5(temporary, PATCHES) as file:
        file.attrs["slide_id"] = slide_id
        file.attrs["digest"] = patches.digest
        if patches.parent_set is not None:
            file.attrs["parent_set"] = patches.parent_set
        file.create_dataset("center", data=np.asarray(patches.center_px, dtype="<f8"), track_times=False)
        barcode = np.asarray(patches.barcode, dtype=object)
        file.create_dataset("barcode", data=barcode, dtype=h5py.string_dtype("utf-8"), track_times=False)
        for name, column in (("array", patches.array), ("parent", patches.parent)):
            if column is not None:
                file.create_dataset(name, data=np.asarray(column, dtype="<i4"), track_times=False)
        seal_datasets(file)


def read_patches(path: Path) -> Patches:
    """Read the centres of one slide and check them against their digest.

    Raises
    ------
    StoreError
        If the file is foreign, or its contents are not what was written.
    """
    with open_h5(path, PATCHES) as file:
        patches = Patches(
            center_px=np.asarray(file["center"], dtype=np.float64),
            barcode=np.asarray(file["barcode"].asstr()[()], dtype=np.str_),
            array=np.asarray(file["array"]) if "array" in file else None,
            parent=np.asarray(file["parent"]) if "parent" in file else None,
            parent_set=str(file.attrs["parent_set"]) if "parent_set" in file.attrs else None,
        )
        if patches.digest != file.attrs.get("digest"):
            msg = f"{path}: centres and barcodes do not match their digest; delete the file and featurize again"
            raise DamagedFileError(msg)
    _check_shapes(patches, str(path))
    return patches


def _check(patches: Patches, slide_id: str) -> None:
    names, counts = np.unique(patches.barcode, return_counts=True)
    if (counts > 1).any():
        repeated = ", ".join(map(str, names[counts > 1][:3]))
        msg = f"slide {slide_id}: barcode {repeated} occurs more than once; barcodes name rows, so each must be unique"
        raise StoreError(msg)
    broken = [name for name in map(str, patches.barcode) if "\n" in name]
    if broken:  # the digest joins barcodes by line breaks
        msg = f"slide {slide_id}: barcode {broken[0]!r} holds a line break; rename it in the source"
        raise StoreError(msg)


def _check_shapes(patches: Patches, what: str) -> None:
    """Refuse columns that are not of one length, or centres and cells that are not pairs."""
    n = len(patches)
    columns = {
        "center": patches.center_px,
        "barcode": patches.barcode,
        "array": patches.array,
        "parent": patches.parent,
    }
    for name, column in columns.items():
        wanted = (n, 2) if name in ("center", "array") else (n,)
        if column is not None and column.shape != wanted:
            msg = f"{what}: {name} has shape {column.shape} for {n} centres; wanted {wanted}"
            raise StoreError(msg)
