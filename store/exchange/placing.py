"""Foreign corners as patches of a store: centres, names of rows, and their order beside patches that are there."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, Ints, Strings
from ..errors import StoreError
from ..files.patches import Patches
from ..naming import SPOTS
from .exporting import place_names
from .foreign import ExternalSlide
from .hdf import array_of_lattice


def box_of(patches: Patches, side_px: float) -> tuple[int, int]:
    """Size of the smallest box from the slide's upper left that holds the patches."""
    right, low = np.ceil(patches.center_px.max(axis=0) + side_px / 2).astype(int).tolist()
    return max(1, right), max(1, low)


def patches_of(foreign: ExternalSlide, mpp: float, side_px: float) -> Patches:
    """Centres from corners; names from the corners where the file has none, rows and columns where they are regular."""
    assert foreign.top_left is not None, "a file without coordinates takes the store's spots"
    corners = foreign.top_left / mpp if foreign.unit == "um" else foreign.top_left
    centers = corners + side_px / 2 if foreign.center_px is None else foreign.center_px
    array = array_of_lattice(corners) if foreign.array is None and foreign.patch_set != SPOTS else foreign.array
    barcode = place_names(corners) if foreign.barcode is None else foreign.barcode
    _check_columns(foreign, centers, barcode, array)
    names, counts = np.unique(barcode, return_counts=True)
    if (counts > 1).any():
        listed = ", ".join(map(str, names[counts > 1][:3]))
        msg = f"slide {foreign.slide_id}: barcode {listed} occurs more than once; barcodes name rows, one each"
        raise StoreError(msg)
    return Patches(centers, barcode, array)


def _check_columns(foreign: ExternalSlide, centers: Floats, barcode: Strings, array: Ints | None) -> None:
    """Refuse what a patch file cannot hold, before the slide's own file is written."""
    n = len(foreign)
    shapes = {"centres": (centers.shape, (n, 2)), "barcodes": (barcode.shape, (n,))}
    if array is not None:
        shapes["rows and columns"] = (array.shape, (n, 2))
    for what, (found, wanted) in shapes.items():
        if found != wanted:
            msg = f"slide {foreign.slide_id}: {what} are {found} for {n} patches; wanted {wanted}: make the file again"
            raise StoreError(msg)
    broken = [name for name in barcode.tolist() if "\n" in name or "\0" in name]
    if broken:
        msg = f"slide {foreign.slide_id}: barcode {broken[0]!r} holds a line break or NUL; rename it in the source"
        raise StoreError(msg)


def stored_spots(foreign: ExternalSlide, stored: Patches | None) -> Patches:
    """The store's spots for a file without coordinates, in the file's order where it names its rows.

    Raises
    ------
    StoreError
        If there are none, or the file has others.
    """
    if stored is None:
        msg = (
            f"slide {foreign.slide_id}: a {foreign.tool} file does not say where its rows lie, and the store has no "
            "spots of the slide: featurize the slide, or import its patches (--format hest), first"
        )
        raise StoreError(msg)
    if len(stored) != len(foreign):
        msg = f"slide {foreign.slide_id}: {len(foreign)} rows of features, the store has {len(stored)} spots"
        raise StoreError(msg)
    if foreign.barcode is None:
        return stored
    row = {name: i for i, name in enumerate(stored.barcode.tolist())}
    strange = [name for name in foreign.barcode.tolist() if name not in row]
    if strange or len(set(foreign.barcode.tolist())) != len(stored):
        what = f"barcodes {', '.join(strange[:3])} are no spots of the store" if strange else "barcodes repeat"
        msg = f"slide {foreign.slide_id}: {what}; {foreign.tool} file and store must hold the same spots"
        raise StoreError(msg)
    rows = np.array([row[name] for name in foreign.barcode.tolist()])
    return Patches(stored.center_px[rows], foreign.barcode)


def order_in(foreign: ExternalSlide, mine: Patches, stored: Patches, *, patch_set: str) -> Ints | None:
    """Rows of `mine` in the order of `stored`; None where that is their own order.

    Raises
    ------
    StoreError
        If they are not the same patches.
    """
    row = {name: i for i, name in enumerate(mine.barcode.tolist())}
    order = np.array([row.get(name, -1) for name in stored.barcode.tolist()], dtype=np.int64)
    same = len(mine) == len(stored) and (order >= 0).all()
    apart = np.abs(mine.center_px[order] - stored.center_px).max(initial=0.0) if same else 0.0
    if not same or apart > foreign.rounding_px:
        detail = (
            f"of the same names, up to {apart:.1f} px apart" if same else f"of which {(order >= 0).sum()} are shared"
        )
        msg = (
            f"slide {foreign.slide_id}: the store's patch set {patch_set!r} has {len(stored)} patches, the file "
            f"{len(mine)}, {detail}: they are others. Give the file's a name of their own with --patches NAME."
        )
        raise StoreError(msg)
    return None if np.array_equal(order, np.arange(len(order))) else order
