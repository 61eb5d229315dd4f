"""What is to be decided of a slide before a foreign file is written into a store: its scale, size and patient."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from math import isclose
from pathlib import Path

import numpy as np

from ..errors import ScaleError, StoreError
from ..naming import UNKNOWN_PATIENT
from ..patch_file import Patches
from ..scale import METADATA, Scale, agreed_scale
from ..slide_file import SAME_MPP, SlideRecord
from .foreign import Declared, Foreign, SlideLook
from .hdf import MOST_PX

_PLACES_APART = ("CLAM", "HEST")  # tools whose patches lie in files apart from their features

OF_PATCHES = "size: the smallest box that holds the patches"
"""Said in `created_by` of a slide whose size no file gives."""


def settle_mpp(foreign: Foreign, declared: Declared, *, look: SlideLook | None, known: SlideRecord | None) -> Scale:
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


def doubts_of(foreign: Foreign, *, mpp: float) -> tuple[str, ...]:
    """What to say where the tool's label of level 0 belongs to another um/px: a factor of two is soon mistyped."""
    if foreign.label is None or foreign.label[1] <= mpp < foreign.label[2]:
        return ()
    name, low, high = foreign.label
    return (f"{foreign.tool} calls level 0 {name}, as it does from {low:g} to {high:g} um/px: is it {mpp:g}?",)


def settle_side(foreign: Foreign, declared: Declared, *, mpp: float) -> float:
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
    foreign: Foreign,
    declared: Declared,
    *,
    scale: Scale,
    box_px: tuple[int, int],
    look: SlideLook | None,
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


def _sizes(foreign: Foreign, *, look: SlideLook | None, known: SlideRecord | None) -> tuple[int, int] | None:
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
