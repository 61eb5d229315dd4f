"""Foreign corners as patches of a store: centres, names of rows, and their order beside patches that are there."""

from __future__ import annotations

import numpy as np

from ..arrays import Ints
from ..errors import StoreError
from ..naming import SPOTS
from ..patch_file import Patches
from .foreign import Foreign
from .lattice import cells_of, lattice_step
from .outgoing import place_names


def box_of(patches: Patches, side_px: float) -> tuple[int, int]:
    """Size of the smallest box from the slide's upper left that holds the patches."""
    right, low = np.ceil(patches.center_px.max(axis=0) + side_px / 2).astype(int).tolist()
    return max(1, right), max(1, low)


def patches_of(foreign: Foreign, mpp: float, side_px: float) -> Patches:
    """Centres from corners; names from the corners where the file has none, rows and columns where they are regular."""
    assert foreign.top_left is not None, "a file without coordinates takes the store's spots"
    corners = foreign.top_left / mpp if foreign.unit == "um" else foreign.top_left
    centers = corners + side_px / 2 if foreign.center_px is None else foreign.center_px
    step = lattice_step(corners) if foreign.patch_set != SPOTS else None
    barcode = place_names(corners) if foreign.barcode is None else foreign.barcode
    return Patches(centers, barcode, None if step is None else cells_of(corners, step))


def stored_spots(foreign: Foreign, stored: Patches | None) -> Patches:
    """The store's spots, for a file without coordinates.

    Raises
    ------
    StoreError
        If there are none, or the file has another number of rows.
    """
    if stored is None:
        msg = (
            f"slide {foreign.slide_id}: a {foreign.tool} file holds no coordinates, and the store has no spots of the "
            "slide: featurize or import the slide with its spots first"
        )
        raise StoreError(msg)
    if len(stored) != len(foreign):
        msg = f"slide {foreign.slide_id}: {len(foreign)} rows of features, the store has {len(stored)} spots"
        raise StoreError(msg)
    return stored


def order_in(foreign: Foreign, mine: Patches, stored: Patches, *, patch_set: str) -> Ints | None:
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
