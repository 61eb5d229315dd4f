"""Foreign patches and features into a store, through its own writers; refused before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Ints, Pixels
from ..errors import StoreError
from ..files.features import FeatureHeader, read_features, write_features
from ..files.lock import slide_lock
from ..files.patches import Patches, read_patches, write_patches
from ..files.same_encoder import KeyFingerprints
from ..files.schema import features_path, patches_path, slide_path
from ..files.slide import SlideRecord, read_slide, write_slide
from .foreign import Declared, ExternalSlide, Look, SlideMetadata, as_stored
from .formats.stamp import on_whole_pixels
from .placing import box_of, order_in, patches_of, stored_spots
from .settle import (
    ImportedView,
    check_inside,
    declared_fingerprint,
    doubts_of,
    file_digest,
    set_name,
    settle_encoder,
    settle_key,
    settle_mpp,
    settle_side,
    settle_slide,
    settle_view,
)


@dataclass(frozen=True)
class Imported:
    """What became of one foreign file.

    Attributes
    ----------
    patient_id
        As the store has it.
    file
        Its name.
    key
        Feature key; None where the file held patches only.
    patches
        Patch set.
    shape
        Of the features, or of the centres.
    dtype
        Of the features; empty where there are none.
    written
        Whether something was written; False where the store had all of it already.
    declared
        Which values the command line gave.
    notes
        What a person should know.
    """

    slide_id: str
    patient_id: str
    file: str
    key: str | None
    patches: str
    shape: tuple[int, ...]
    dtype: str
    written: bool
    mpp: float
    mpp_source: str
    declared: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Decided:
    """Everything about one foreign file, decided and checked; `order` puts its rows into the store's."""

    foreign: ExternalSlide
    slide: SlideRecord
    mpp_source: str
    patch_set: str
    patches: Patches
    order: Ints | None
    view: ImportedView
    encoder: str
    key: str | None


def deposit(
    root: Path, foreign: ExternalSlide, declared: Declared, *, file: Path, look: Look, keys: KeyFingerprints
) -> Imported:
    """Write what a foreign file holds: slide, patch set and features, each only where the store lacks it.

    Parameters
    ----------
    keys
        Fingerprints that the store's feature keys hold.

    Raises
    ------
    TissuaryError
        If scale or encoder is unknown or contradictory, or the store holds something else under the same name.
    """
    slide_id, seen = foreign.slide_id, look(foreign.slide_id)
    if not root.is_dir():  # what is refused leaves no empty store behind, not even a lock's folder
        _decide(root, foreign, declared, file=file, look=seen)
    with slide_lock(root, slide_id):
        decided = _decide(root, foreign, declared, file=file, look=seen)
        foreign = decided.foreign
        header = None if decided.key is None else _header(declared, decided, file=file)
        rows: Any = decided.patches.center_px
        if header is not None and foreign.features is not None:
            rows = foreign.features if decided.order is None else foreign.features[decided.order]
        with keys.adding({} if header is None else {decided.key or "": header}, patches=decided.patch_set):
            written = _deposit_geometry(root, decided, thumbnail=seen.thumbnail if seen else None)
            if header is not None:
                target = features_path(root, slide_id, key=decided.key or "", patches=decided.patch_set)
                written |= _deposit_features(target, header, rows)
    return Imported(
        slide_id,
        decided.slide.patient_id,
        file.name,
        decided.key,
        decided.patch_set,
        tuple(rows.shape),
        "" if header is None else rows.dtype.name,
        written,
        decided.slide.mpp,
        decided.mpp_source,
        _used(foreign, declared),
        foreign.notes,
    )


def _decide(
    root: Path, foreign: ExternalSlide, declared: Declared, *, file: Path, look: SlideMetadata | None
) -> _Decided:
    """Everything that may be refused, before a byte is written."""
    path = slide_path(root, foreign.slide_id)
    known = read_slide(path) if path.exists() else None
    encoder = settle_encoder(foreign, declared) if foreign.features is not None else ""
    scale = settle_mpp(foreign, declared, look=look, known=known)
    foreign = on_whole_pixels(as_stored(foreign), declared, mpp=scale.mpp)
    side_px = settle_side(foreign, declared, mpp=scale.mpp)
    view = settle_view(foreign, declared, side_px=side_px, mpp=scale.mpp)
    patch_set = set_name(foreign, declared, view=view)
    stored_path = patches_path(root, foreign.slide_id, patches=patch_set)
    stored = read_patches(stored_path) if stored_path.exists() else None
    patches = stored_spots(foreign, stored) if foreign.top_left is None else patches_of(foreign, scale.mpp, side_px)
    slide = settle_slide(
        foreign, declared, scale=scale, box_px=box_of(patches, side_px), look=look, known=known, file=file
    )
    check_inside(patches, slide, side_px=side_px)
    order = None if stored is None else order_in(foreign, patches, stored, patch_set=patch_set)
    notes = view.notes + doubts_of(foreign, mpp=scale.mpp)
    if order is not None:
        notes += ("rows were put into the order of the store's patch set",)
    key = settle_key(foreign, declared, encoder=encoder, view=view) if foreign.features is not None else None
    foreign = replace(foreign, notes=(*foreign.notes, *notes))
    return _Decided(foreign, slide, scale.source, patch_set, stored or patches, order, view, encoder, key)


def _header(declared: Declared, decided: _Decided, *, file: Path) -> FeatureHeader:
    foreign = decided.foreign
    record = {
        "key": decided.encoder,
        "licence": "unknown",
        "imported": {
            "tool": foreign.tool,
            "version": foreign.details.get("stamp_version", "not said"),
            "file": file.name,
            "file_sha256": file_digest(file),
            "encoder": decided.encoder,
            "declared": list(_used(foreign, declared)),
            "details": foreign.details,
        },
    }
    view, slide = decided.view, decided.slide
    return FeatureHeader(
        foreign.slide_id,
        declared_fingerprint(foreign, encoder=decided.encoder, view=view),
        record,
        view.mpp,
        view.fov_um,
        max(1.0, slide.mpp / view.mpp),
        "unknown",
        decided.patches.digest,
        slide.mpp,
        slide.source_digest,
    )


def _used(foreign: ExternalSlide, declared: Declared) -> tuple[str, ...]:
    """Names of the values that stand on the command line's word alone or beside a file's."""
    given = {
        "mpp": declared.scale_of(foreign.slide_id),
        "encoder": declared.encoder,
        "patch_px": declared.patch_px,
        "view": declared.view,
        "patient": declared.patient_of.get(foreign.slide_id),
    }
    return tuple(f"{name}={value}" for name, value in given.items() if value is not None)


def _deposit_geometry(root: Path, decided: _Decided, *, thumbnail: Pixels | None) -> bool:
    """Write slide and patch set where the store lacks them; tell whether anything was written."""
    slide_id = decided.slide.slide_id
    slide, place = slide_path(root, slide_id), patches_path(root, slide_id, patches=decided.patch_set)
    written = False
    if not slide.exists():
        write_slide(slide, decided.slide, thumbnail=thumbnail)
        written = True
    if not place.exists():
        write_patches(place, decided.patches, slide_id=slide_id)
        written = True
    return written


def _deposit_features(target: Path, header: FeatureHeader, rows: Floats) -> bool:
    """Write features exactly as they are, or check that those in the store are the same."""
    if target.exists():
        found = read_features(target)
        same = replace(found.header, record=header.record) == header
        if not same or found.features.dtype != rows.dtype or not np.array_equal(found.features, rows):
            msg = f"{target} holds other features of this slide; a file is written once: delete it, or use --as NAME"
            raise StoreError(msg)
        return False
    with write_features(target, header, shape=rows.shape, dtype=rows.dtype) as writer:
        writer.append(rows)
    return True
