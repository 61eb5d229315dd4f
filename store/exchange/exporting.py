"""Export: every slide of a store in another tool's files; a slide that fails is named and the others go on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Pixels, Strings
from ..choices import no_key, no_patch_set
from ..errors import StoreError, TissuaryError
from ..files.atomic import check_writable
from ..files.expression import Expression, read_expression
from ..files.features import FeatureHeader
from ..files.patches import Patches
from ..files.schema import SLIDE, expression_path, open_h5, slide_path
from ..files.slide import SAME_MPP, SlideRecord, read_thumbnail
from ..naming import SPOTS, FeatureKey
from ..store import Store
from .foreign import RoundTripTags
from .hdf import ARRAY, EXACT_BARCODES, EXACT_CENTERS, array_of_lattice

_STRIDE = re.compile(r"-(?P<stride>\d+(?:\.\d+)?)um")


@dataclass(frozen=True)
class ExportColumn:
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
class ExportSlide:
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
    columns: tuple[ExportColumn, ...]
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


def mark_of(outgoing: ExportSlide, column: ExportColumn) -> RoundTripTags:
    """What a format of others has no place for, and an import wants back."""
    return RoundTripTags(
        slide_mpp=outgoing.slide.mpp,
        fov_um=column.header.fov_um,
        mpp=column.header.mpp,
        encoder=column.key.encoder,
        view=column.key.view,
        patches=outgoing.patch_set,
        dtype=column.features.dtype.name,
    )


def write_extras(file: Any, outgoing: ExportSlide, *, again_px: Floats, corners_px: Floats) -> None:
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


log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the slide, slides done, and slides in all."""

DENSITY = "haematoxylin@"
"""Start of the keys of the density control, which is left out unless it is asked for."""


@dataclass(frozen=True)
class Exporter:
    """How one slide is written for another tool.

    Attributes
    ----------
    write
        Takes a slide and the folder; returns the files, and what was left out or rounded.
    bare
        Whether a slide without features is worth a file.
    check
        Raises where a library is missing.
    """

    tool: str
    write: Callable[[ExportSlide, Path], tuple[list[Path], list[str]]]
    bare: bool = False
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Exported:
    """What became of one slide."""

    slide_id: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes
    ----------
    skipped, failed
        (slide, reason).
    """

    out: str
    tool: str
    patches: str
    keys: tuple[str, ...]
    done: tuple[Exported, ...]
    skipped: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]


def export_store(
    store: Store,
    out: Path,
    exporter: Exporter,
    *,
    keys: Sequence[str] = (),
    patches: str | None = None,
    progress: Progress = lambda *_: None,
) -> ExportReport:
    """Write one patch set of a store below the folder `out`.

    Parameters
    ----------
    keys
        Feature keys; all but the density control where empty.
    patches
        Patch set; the store's only one, or `spots`, where None.

    Raises
    ------
    StoreError
        If the store has no such patch set or keys.
    MissingDependencyError
        If the format needs a library that is not installed.
    """
    exporter.check()
    check_writable(out)
    chosen, wanted, slides = _chosen(store, keys=keys, patches=patches)
    done: list[Exported] = []
    skipped: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    for i, slide_id in enumerate(slides):
        progress(slide_id, i, len(slides))
        try:
            outgoing = load_outgoing(store, slide_id, keys=wanted, patches=chosen)
            if not outgoing.columns and not exporter.bare:
                skipped.append((slide_id, f"it has no features of {', '.join(wanted) or 'any encoder'}"))
                continue
            files, notes = exporter.write(outgoing, out)
            done.append(Exported(slide_id, tuple(map(str, files)), tuple(notes)))
        except TissuaryError as error:
            log.info("%s", slide_id, exc_info=True)
            failed.append((slide_id, str(error)))
    progress("done", len(slides), len(slides))
    return ExportReport(str(out), exporter.tool, chosen, wanted, tuple(done), tuple(skipped), tuple(failed))


def _chosen(store: Store, *, keys: Sequence[str], patches: str | None) -> tuple[str, tuple[str, ...], list[str]]:
    """Patch set, keys and slides of an export."""
    chosen = store.patch_set(patches)
    slides = sorted({e.slide_id for e in store.entries if e.kind == "patches" and e.patches == chosen})
    if not slides:
        raise no_patch_set(store, chosen)
    have_keys = store.keys(chosen)
    for key in keys:
        if key not in have_keys:
            raise no_key(store, key, patches=chosen)
    wanted = tuple(keys) or tuple(key for key in have_keys if not key.startswith(DENSITY))
    return chosen, wanted, slides


def load_outgoing(store: Store, slide_id: str, *, keys: Sequence[str], patches: str) -> ExportSlide:
    """Open what a store holds of one slide, refused where features are not of its image and patches.

    Raises
    ------
    StoreError
        If a file is damaged, or rows do not belong together.
    """
    slide, place = store.slide(slide_id), store.patches(slide_id, patches=patches)
    have = {e.key for e in store.entries if (e.kind, e.patches, e.slide_id) == ("features", patches, slide_id)}
    columns = []
    for key in (key for key in keys if key in have):
        header = store.header(key, slide_id, patches=patches)
        features = store.features(key, slide_id, patches=patches)
        same = (header.slide_id, header.source_digest) == (slide_id, slide.source_digest)
        if not same or not isclose(header.slide_mpp, slide.mpp, rel_tol=SAME_MPP):
            msg = f"slide {slide_id}: features {key} were made from another image or scale; featurize it again"
            raise StoreError(msg)
        if header.patches_digest != place.digest or len(features) != len(place):
            msg = f"slide {slide_id}: features {key} belong to other patches than the store's"
            raise StoreError(msg)
        columns.append(ExportColumn(FeatureKey.parse(key), header, features))
    counted = expression_path(store.path, slide_id)
    counts = read_expression(counted) if patches == SPOTS and counted.exists() else None
    if counts is not None and (len(counts.barcode) != len(place) or (counts.barcode != place.barcode).any()):
        msg = f"slide {slide_id}: rows of the counts are not the spots of the patch file"
        raise StoreError(msg)
    return ExportSlide(
        slide,
        patches,
        place,
        tuple(columns),
        counts,
        _thumbnail(slide_path(store.path, slide_id)),
    )


def _thumbnail(path: Path) -> Pixels | None:
    """The thumbnail, or None of a slide that was imported without its image."""
    with open_h5(path, SLIDE) as file:
        if "thumbnail" not in file:
            return None
    return read_thumbnail(path)
