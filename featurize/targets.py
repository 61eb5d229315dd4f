"""Which feature files a slide still lacks: every encoder at every view, cut as few times as possible."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.errors import FingerprintError, StoreError
from ..store.feature_file import FeatureHeader, read_features
from ..store.naming import VIEW_ALIASES, feature_key
from ..store.patch_file import Patches
from ..store.schema import features_path
from ..store.slide_file import SAME_MPP, SlideRecord
from .options import DENSITY, FeaturizeOptions
from .reading import READING, Field, Readable, plan_field
from .views import View, check_upsampling, resolve_view

if TYPE_CHECKING:
    from .backbones.build import Encoder
    from .backbones.record import BackboneRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """One feature file to be written."""

    path: Path
    encoder: Encoder
    header: FeatureHeader


@dataclass(frozen=True)
class ViewField:
    """A view, the way it is cut from this slide, and who wants it.

    Attributes
    ----------
    encoders
        Names that features are stored under.
    targets
        Files to be written; filled in once the patches are known.
    """

    view: View
    field: Field
    upsampling: float
    encoders: tuple[str, ...]
    targets: tuple[Target, ...] = ()


def view_fields(
    slide: Readable, mpp: float, options: FeaturizeOptions, *, encoders: dict[str, Encoder]
) -> tuple[ViewField, ...]:
    """One entry per different field of pixels; encoders share it unless `native` depends on their input size.

    Raises
    ------
    ScaleError
        If the slide is too coarse for a view.
    """
    fields: dict[tuple[str, int], ViewField] = {}
    for name in options.view_names:
        for stored_as, encoder in encoders.items():
            if stored_as == DENSITY and name != options.view_names[0]:
                continue
            view = resolve_view(name, slide_mpp=mpp, input_px=encoder.record.input_px)
            factor = check_upsampling(view, mpp, layout=options.layout)
            cut = _with_margin(view, encoder.record)
            at = (name, cut.side_px)
            users = (*(fields[at].encoders if at in fields else ()), stored_as)
            fields[at] = ViewField(view, plan_field(slide, cut, mpp=mpp), factor, users)
    return tuple(fields.values())


def _with_margin(view: View, record: BackboneRecord) -> View:
    """What is read for a view: more than the view where the transform crops, so that the network sees all of it."""
    if record.crop_from_px is None:
        return view
    return replace(view, fov_um=view.fov_um * record.crop_from_px / record.input_px)


def with_missing_targets(
    field: ViewField, patches: Patches, *, root: Path, slide: SlideRecord, patch_set: str, encoders: dict[str, Encoder]
) -> ViewField:
    """The field with the feature files that are not in the store yet.

    Raises
    ------
    FingerprintError
        If a file of that key was made by another encoder.
    """
    targets = []
    for stored_as in field.encoders:
        encoder = encoders[stored_as]
        path = features_path(root, slide.slide_id, key=feature_key(stored_as, field.view.name), patches=patch_set)
        header = FeatureHeader(
            slide_id=slide.slide_id,
            fingerprint=encoder.fingerprint_for(f"{canonical_view(field.view.name)}; {READING}"),
            record=encoder.record.to_dict(),
            mpp=field.view.mpp,
            fov_um=field.view.fov_um,
            upsampling=field.upsampling,
            precision=encoder.record.precision,
            patches_digest=patches.digest,
            slide_mpp=slide.mpp,
            source_digest=slide.source_digest,
        )
        if not _is_there(path, header):
            targets.append(Target(path, encoder, header))
    return replace(field, targets=tuple(targets))


def canonical_view(name: str) -> str:
    """The view's name in um, so that an alias and its meaning share a fingerprint."""
    if name in VIEW_ALIASES:
        fov_um, mpp = VIEW_ALIASES[name]
        return f"{fov_um:g}um-{mpp:g}"
    return name


def _is_there(path: Path, header: FeatureHeader) -> bool:
    """Whether the file that would be written exists; a damaged one is removed, so that it is written anew."""
    if not path.exists():
        return False
    try:
        found = read_features(path).header
    except StoreError as error:
        log.warning("%s; it is written anew", error)
        path.unlink()
        return False
    if found.fingerprint != header.fingerprint:
        msg = (
            f"{path.parent.name} of slide {header.slide_id} is in the store with fingerprint {found.fingerprint[:12]}, "
            f"this encoder's is {header.fingerprint[:12]}: weights, options or version differ. "
            "Store it beside the other with `--as NAME`, or delete the folder of the old features."
        )
        raise FingerprintError(msg)
    same = (found.patches_digest, found.source_digest) == (header.patches_digest, header.source_digest)
    if not same or not isclose(found.slide_mpp, header.slide_mpp, rel_tol=SAME_MPP):
        msg = (
            f"{path} was made from another image, scale or set of patches than slide {header.slide_id} has now: "
            "delete it and run again"
        )
        raise StoreError(msg)
    return True
