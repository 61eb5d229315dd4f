"""What leaves a store: one slide with its patches, features and counts, in the store's own conventions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Pixels, Strings
from ..expression import Expression
from ..feature_file import FeatureHeader
from ..naming import SPOTS, FeatureKey
from ..patch_file import Patches
from ..slide_file import SlideRecord
from .hdf import ARRAY, EXACT_BARCODES, EXACT_CENTERS
from .lattice import array_of_lattice
from .mark import Mark

_STRIDE = re.compile(r"-(?P<stride>\d+(?:\.\d+)?)um")


@dataclass(frozen=True)
class Column:
    """Features of one key: (n, dim) or (n, tokens, dim)."""

    key: FeatureKey
    header: FeatureHeader
    features: Floats

    @property
    def imported(self) -> dict[str, Any]:
        """What is on record of the tool that the features were imported from; empty where tissuary made them."""
        found = self.header.record.get("imported")
        return found if isinstance(found, dict) else {}

    @property
    def encoder(self) -> str:
        """Name of the encoder, as the tool called it where the features were imported."""
        return str(self.imported.get("encoder") or self.key.encoder)

    @property
    def side_px(self) -> float:
        """Side of a patch in level-0 pixels."""
        return self.header.fov_um / self.header.slide_mpp

    @property
    def patch_px(self) -> int:
        """Side of a patch in its own pixels."""
        return max(1, round(self.header.fov_um / self.header.mpp))

    def of(self, tool: str) -> dict[str, Any]:
        """Details of the tool's own file that the features came from; empty where they came from elsewhere."""
        return dict(self.imported.get("details", {})) if self.imported.get("tool") == tool else {}


@dataclass(frozen=True)
class OutgoingSlide:
    """One slide of a store, opened for an export.

    Attributes
    ----------
    patch_set
        Name of the patch set.
    counts
        Raw counts, where the patches are spots and were measured.
    thumbnail
        (h, w, 3), where the store has one.
    """

    slide: SlideRecord
    patch_set: str
    patches: Patches
    columns: tuple[Column, ...]
    counts: Expression | None = None
    thumbnail: Pixels | None = None


def overlap_share(patch_set: str, fov_um: float) -> float:
    """Share of a patch's side by which neighbours overlap, from the stride in a grid's name; 0 where it has none.

    Examples
    --------
    >>> overlap_share("grid-56um-tile112um", 112.0), overlap_share("spots", 112.0)
    (0.5, 0.0)
    """
    match = _STRIDE.search(patch_set)
    return max(0.0, 1.0 - float(match["stride"]) / fov_um) if match else 0.0


def kept(path: Path) -> str:
    """Said of a file that an earlier export left: nothing of the user's is overwritten."""
    return f"{path} is there already and was kept; delete it to have it written again"


def mark_of(outgoing: OutgoingSlide, column: Column) -> Mark:
    """What a format of others has no place for, and an import wants back."""
    return Mark(
        slide_mpp=outgoing.slide.mpp,
        fov_um=column.header.fov_um,
        mpp=column.header.mpp,
        encoder=column.key.encoder,
        view=column.key.view,
        patches=outgoing.patch_set,
        dtype=column.features.dtype.name,
    )


def write_extras(file: Any, outgoing: OutgoingSlide, *, again_px: Floats, corners_px: Floats) -> None:
    """Add centres, names of rows and their array to an HDF5 file where its format would lose them.

    Parameters
    ----------
    again_px
        (n, 2) centres as an import makes them from the format's own coordinates.
    corners_px
        (n, 2) corners as an import reads them.
    """
    patches, patch_set = outgoing.patches, outgoing.patch_set
    if not np.array_equal(again_px, patches.center_px):
        file.create_dataset(EXACT_CENTERS, data=np.asarray(patches.center_px, dtype="<f8"), track_times=False)
    if not np.array_equal(place_names(corners_px), patches.barcode):
        file.create_dataset(EXACT_BARCODES, data=np.char.encode(patches.barcode, "utf-8"), track_times=False)
    found = array_of_lattice(corners_px) if patch_set != SPOTS else None
    if patches.array is not None and (found is None or not np.array_equal(found, patches.array)):
        file.create_dataset(ARRAY, data=np.asarray(patches.array, dtype="<i4"), track_times=False)


def place_names(top_left: Floats) -> Strings:
    """Names (n,) of patches by their corner (n, 2) in whole level-0 pixels: `x768y0`; equal corners are numbered."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for x, y in np.rint(top_left).astype(np.int64).tolist():
        name = f"x{x}y{y}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return np.array(names, dtype=np.str_)
