"""What is to be decided of a slide before a foreign file is written into a store: its scale, size and patient."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from math import isclose
from pathlib import Path

import numpy as np

from ..errors import FingerprintError, InvalidNameError, ScaleError, StoreError
from ..files.patches import Patches
from ..files.slide import SAME_MPP, SlideRecord
from ..naming import UNKNOWN_PATIENT, VIEW_ALIASES, FeatureKey, feature_key
from ..scale import MAX_DISAGREEMENT, METADATA, PLAUSIBLE_MPP, Scale, agreed_scale
from .foreign import Declared, ExternalSlide, SlideMetadata, digits
from .hdf import MOST_PX

_PLACES_APART = ("CLAM", "HEST")  # tools whose patches lie in files apart from their features

OF_PATCHES = "size: the smallest box that holds the patches"
"""Said in `created_by` of a slide whose size no file gives."""


def settle_mpp(
    foreign: ExternalSlide, declared: Declared, *, look: SlideMetadata | None, known: SlideRecord | None
) -> Scale:
    """um per level-0 pixel of a slide that is imported; the slide in the store decides where there is one.

    Raises
    ------
    ScaleError
        If no source knows it, two contradict one another, or one is no slide's.
    """
    said = declared.scale_of(foreign.slide_id)
    if known is not None and said is not None and not isclose(said, known.mpp, rel_tol=SAME_MPP):
        msg = (
            f"slide {foreign.slide_id}: declared are {said:g} um/px, the store has it at {known.mpp:g} um/px "
            f"({known.mpp_source}): leave out --mpp, or use another store"
        )
        raise ScaleError(msg)
    claims = {
        "declared": said,
        METADATA: look.mpp if look else None,
        f"{foreign.tool} file": foreign.mpp,
        "store": known.mpp if known is not None else None,
    }
    scale = agreed_scale(
        foreign.slide_id,
        claims,
        unknown=f"{foreign.tool} does not say um/px, and a scale is never guessed. Declare um per level-0 pixel with "
        "--mpp X, give the images with --slides DIR, or use a store that has the slide.",
        correct=". Correct the wrong one, or declare the right one with --mpp for the slides it holds of.",
    )
    candidates = {source: mpp for source, mpp in scale.candidates.items() if source != "store"}
    return Scale(known.mpp, "store", candidates) if known is not None else Scale(scale.mpp, scale.source, candidates)


def doubts_of(foreign: ExternalSlide, *, mpp: float) -> tuple[str, ...]:
    """What to say where the tool's label of level 0 belongs to another um/px: a factor of two is soon mistyped."""
    if foreign.label is None or foreign.label[1] <= mpp < foreign.label[2]:
        return ()
    name, low, high = foreign.label
    return (f"{foreign.tool} calls level 0 {name}, as it does from {low:g} to {high:g} um/px: is it {mpp:g}?",)


def settle_side(foreign: ExternalSlide, declared: Declared, *, mpp: float) -> float:
    """Side of a patch in level-0 pixels.

    Raises
    ------
    ScaleError
        If nothing says it, it is beyond any slide, or the command line declares another side than the file says.
    """
    side = foreign.side
    if side is not None and foreign.unit == "um":
        side /= mpp
    if side is not None and declared.patch_px is not None and not isclose(side, declared.patch_px, rel_tol=SAME_MPP):
        msg = (
            f"slide {foreign.slide_id}: declared are patches of {declared.patch_px:g} level-0 px, "
            f"{foreign.tool} says {side:g}: leave out --patch-px"
        )
        raise ScaleError(msg)
    side = side if side is not None else declared.patch_px
    if side is None or not 0 < side < math.inf:
        apart = "give the folder of the patches files with --coords DIR, or " if foreign.tool in _PLACES_APART else ""
        msg = (
            f"slide {foreign.slide_id}: this {foreign.tool} file does not say how large a patch is: "
            f"{apart}declare the side in level-0 pixels with --patch-px N"
        )
        raise ScaleError(msg)
    if side >= MOST_PX:
        msg = f"slide {foreign.slide_id}: a patch of {side:g} level-0 pixels is beyond any slide: make the file again"
        raise ScaleError(msg)
    return side


def settle_slide(
    foreign: ExternalSlide,
    declared: Declared,
    *,
    scale: Scale,
    box_px: tuple[int, int],
    look: SlideMetadata | None,
    known: SlideRecord | None,
    file: Path,
) -> SlideRecord:
    """The slide's record: the store's, or a new one from image, file or patches.

    Parameters
    ----------
    scale
        As `settle_mpp` gives it.
    box_px
        Size of the smallest box that holds the patches.
    file
        The foreign file, named as the source where there is no image.

    Raises
    ------
    StoreError
        If image, file and store disagree on size, or on the patient, or the size is no slide's.
    """
    slide_id = foreign.slide_id
    said = _sizes(foreign, look=look, known=known)
    patient = declared.patient_of.get(slide_id)
    if known is not None:
        if patient is not None and patient != known.patient_id:
            msg = f"slide {slide_id}: declared is patient {patient}, the store has {known.patient_id}"
            raise StoreError(msg)
        return known
    width, height = said or box_px
    if max(width, height) >= MOST_PX:
        msg = f"slide {slide_id}: {width:g} x {height:g} px are beyond any slide: make the file again"
        raise StoreError(msg)
    made = f"tissuary {version('tissuary')}, import from {foreign.tool}"
    return SlideRecord(
        slide_id,
        patient or f"{UNKNOWN_PATIENT}{slide_id}",
        width,
        height,
        scale.mpp,
        scale.source,
        scale.candidates,
        look.source if look else file.name,
        look.source_digest if look else file_digest(file),
        made if said else f"{made}; {OF_PATCHES}",
        look.bounds_px if look else None,
    )


def _sizes(foreign: ExternalSlide, *, look: SlideMetadata | None, known: SlideRecord | None) -> tuple[int, int] | None:
    """Width and height of level 0 on which all agree that know it; None where nobody does."""
    sizes = {f"the {foreign.tool} file": foreign.size_px}
    if look is not None:
        sizes["the image"] = (look.width_px, look.height_px)
    if known is not None and OF_PATCHES not in known.created_by:
        sizes["the store"] = (known.width_px, known.height_px)
    said = {name: size for name, size in sizes.items() if size is not None}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{name} {width} x {height}" for name, (width, height) in said.items())
        msg = f"slide {foreign.slide_id}: its size at level 0 differs: {listed}. Are they of the same image?"
        raise StoreError(msg)
    return next(iter(said.values()), None)


def file_digest(path: Path) -> str:
    """sha256 of a whole foreign file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_inside(patches: Patches, slide: SlideRecord, *, side_px: float) -> None:
    """Refuse patches that do not touch the slide at all.

    Raises
    ------
    StoreError
        If there are any, said apart where the slide's size is only that of an earlier import's patches.
    """
    beyond = np.array([slide.width_px, slide.height_px]) + side_px / 2
    astray = int(((patches.center_px <= -side_px / 2) | (patches.center_px >= beyond)).any(axis=1).sum())
    if not astray:
        return
    size = f"{slide.width_px} x {slide.height_px} px"
    msg = f"slide {slide.slide_id}: {astray} of {len(patches)} patches lie outside its {size}"
    if OF_PATCHES in slide.created_by:
        msg += (
            ", which is only the box that an earlier import's patches fill: delete every file named "
            f"{slide.slide_id}.h5 in the store, and import again with --slides DIR, or these patches first"
        )
    raise StoreError(msg)


def settle_encoder(foreign: ExternalSlide, declared: Declared) -> str:
    """Name of the encoder, as the file or the command line says.

    Raises
    ------
    FingerprintError
        If neither says it, they contradict one another, or the file's is no text that can be kept.
    """
    if foreign.encoder is None and declared.encoder is None:
        hint = f" (its folder is named {foreign.hint!r})" if foreign.hint else ""
        msg = (
            f"slide {foreign.slide_id}: this {foreign.tool} file does not say which encoder made its features{hint}, "
            "and features of an unknown encoder cannot be kept apart from others: declare it with --encoder NAME"
        )
        raise FingerprintError(msg)
    if foreign.encoder is not None and declared.encoder not in (None, foreign.encoder):
        msg = (
            f"slide {foreign.slide_id}: declared is encoder {declared.encoder!r}, the {foreign.tool} file says "
            f"{foreign.encoder!r}: leave out --encoder, or rename the features with --as {declared.encoder}"
        )
        raise FingerprintError(msg)
    encoder = foreign.encoder or declared.encoder or ""
    if not encoder.isprintable():
        msg = f"slide {foreign.slide_id}: encoder {encoder!r} holds control characters: make the file again"
        raise FingerprintError(msg)
    return encoder


NATIVE = "native"
"""View of patches that are level-0 pixels as they are, whatever the slide's um/px."""

_SAID_FROM = 1.005
"""Ratio between a patch and the view it is kept under, from which an import says it."""


@dataclass(frozen=True)
class ImportedView:
    """The field that imported features saw.

    Attributes
    ----------
    name
        As the feature key has it.
    fov_um, mpp
        Exactly, on this slide.
    patch_px
        Side of a patch in its own pixels, as the view's name says it; those of a slide may be up to 5 % off.
    """

    name: str
    fov_um: float
    mpp: float
    patch_px: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say where patches are kept under a view that is not quite theirs."""
        if self.name == NATIVE:
            return ()
        fov_um, mpp = _numbers(self.name)
        off = max(fov_um / self.fov_um, self.fov_um / fov_um, mpp / self.mpp, self.mpp / mpp)
        if off < _SAID_FROM:
            return ()
        own = f"{digits(self.fov_um)} um at {digits(self.mpp)} um/px"
        return (f"patches of {own} are kept under the view {self.name}, {off - 1:.1%} off",)


def settle_view(foreign: ExternalSlide, declared: Declared, *, side_px: float, mpp: float) -> ImportedView:
    """The view: its field from the side at level 0 and the slide's um/px, never from a magnification.

    Its um/px follow from the pixels of a patch; where no file says these, from those of the declared view, or they are
    taken to be the slide's own pixels.

    Raises
    ------
    InvalidNameError
        If the declared view is no view, or is more than 5 % off what the slide has, or `native` and the patches were
        resampled.
    ScaleError
        If the um/px of a patch are none that a slide is cut at.
    """
    fov_um = side_px * mpp
    view_mpp = fov_um / foreign.patch_px if foreign.patch_px else mpp
    low, high = PLAUSIBLE_MPP
    if not low <= view_mpp <= high:
        msg = (
            f"slide {foreign.slide_id}: patches of {fov_um:g} um and {foreign.patch_px or side_px:g} px have "
            f"{view_mpp:.4g} um/px; wanted {low:g} to {high:g}: is the side of a patch, or --mpp, wrong?"
        )
        raise ScaleError(msg)
    name = declared.view or foreign.view
    own = f"{digits(fov_um)}um-{digits(view_mpp)}"
    if name is None:
        return ImportedView(own, fov_um, view_mpp, round(fov_um / view_mpp))
    parsed = FeatureKey.parse(f"x@{name}").view
    if parsed == NATIVE:
        _check_native(foreign, side_px=side_px, own=own)
        return ImportedView(NATIVE, fov_um, mpp, round(side_px))
    numbers = _numbers(parsed)
    if not all(numbers):
        msg = f"view {name!r} has no field, or no um/px: give it as <um>um-<um per px>, for example 128um-0.5"
        raise InvalidNameError(msg)
    view_px = round(numbers[0] / numbers[1])
    if not foreign.patch_px:
        view_mpp = fov_um / max(1, view_px)  # no file says it, so the declared view does
        own = f"{digits(fov_um)}um-{digits(view_mpp)}"
    for what, wanted, found in zip(("um a side", "um/px"), numbers, (fov_um, view_mpp), strict=True):
        if max(wanted, found) > MAX_DISAGREEMENT * min(wanted, found):
            unresampled = not foreign.patch_px or isclose(foreign.patch_px, side_px, rel_tol=1e-6)
            together = "; or all slides with --view native, as each patch is level-0 pixels" if unresampled else ""
            msg = (
                f"slide {foreign.slide_id}: view {name} has {wanted:g} {what}, the patches have {found:.4g}, more than "
                f"{MAX_DISAGREEMENT - 1:.0%} off. Import this slide apart, with --view {own}, about the view it was "
                f"cut at: it gets a key of its own{together}"
            )
            raise InvalidNameError(msg)
    return ImportedView(parsed, fov_um, view_mpp, view_px)


def _check_native(foreign: ExternalSlide, *, side_px: float, own: str) -> None:
    if foreign.patch_px and not isclose(foreign.patch_px, side_px, rel_tol=1e-6):
        msg = (
            f"slide {foreign.slide_id}: its patches are {foreign.patch_px:g} px made from {side_px:g} level-0 px, and "
            f"native ones are not resampled: give the view they were cut at, about {own}"
        )
        raise InvalidNameError(msg)


def _numbers(view: str) -> tuple[float, float]:
    """Field in um and um/px that the name of a view says."""
    if view in VIEW_ALIASES:
        return VIEW_ALIASES[view]
    fov_um, mpp = view.split("um-")
    return float(fov_um), float(mpp)


def settle_key(foreign: ExternalSlide, declared: Declared, *, encoder: str, view: ImportedView) -> str:
    """The feature key.

    Raises
    ------
    InvalidNameError
        If the encoder's name cannot be part of one.
    """
    try:
        return feature_key(declared.name or foreign.name or encoder, view.name, layout=foreign.layout)
    except InvalidNameError as error:
        error.add_note(f"Keep the features of {encoder!r} under a name of letters, digits, _ + and - with --as NAME.")
        raise


def declared_fingerprint(foreign: ExternalSlide, *, encoder: str, view: ImportedView) -> str:
    """Fingerprint of features whose encoder is only known by name.

    Equal for files of the same tool (and the same of its versions, where its files say that), encoder name, view, the
    view's pixels per patch and layout: slides that are kept under one view share it, though their um/px differ by up to
    5 % from the view's. Never equal to a fingerprint that tissuary computed, which is 64 hexadecimal digits.
    """
    shaping = {
        "tool": foreign.tool,
        "encoder": encoder,
        "view": view.name,
        "patch_px": view.patch_px,
        "layout": foreign.layout,
        **foreign.identity,
    }
    canonical = json.dumps(shaping, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"declared:{encoder}:{hashlib.sha256(canonical.encode()).hexdigest()}"


def set_name(foreign: ExternalSlide, declared: Declared, *, view: ImportedView) -> str:
    """Name of the patch set: spots, or the tool's grid by its stride in um (`trident-127.7um`; of native ones in px).

    The tool is part of the name because its grid of a slide is not that of another tool at the same stride.
    """
    if declared.patches or foreign.patch_set:
        return declared.patches or foreign.patch_set or ""
    if view.name == NATIVE:
        tile_px = f"-tile{view.patch_px}px" if foreign.overlap else ""
        return f"{foreign.tool.lower()}-{digits(view.patch_px * (1 - foreign.overlap))}px{tile_px}"
    fov_um = _numbers(view.name)[0]
    stride_um = digits(fov_um * (1 - foreign.overlap))
    tile = f"-tile{digits(fov_um)}um" if foreign.overlap else ""
    return f"{foreign.tool.lower()}-{stride_um}um{tile}"
