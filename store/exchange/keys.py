"""Names of imported features: their encoder, view, key, fingerprint and patch set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ..errors import FingerprintError, InvalidNameError, ScaleError
from ..naming import VIEW_ALIASES, FeatureKey, feature_key
from ..scale import MAX_DISAGREEMENT, PLAUSIBLE_MPP
from .foreign import Declared, Foreign, digits


def settle_encoder(foreign: Foreign, declared: Declared) -> str:
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


@dataclass(frozen=True)
class ImportedView:
    """The field that imported features saw.

    Attributes
    ----------
    name
        As the feature key has it.
    fov_um, mpp
        Exactly, on this slide.
    """

    name: str
    fov_um: float
    mpp: float


def settle_view(foreign: Foreign, declared: Declared, *, side_px: float, mpp: float) -> ImportedView:
    """The view: its field from the side at level 0 and the slide's um/px, never from a magnification.

    Its um/px follow from the pixels of a patch; where no file says these, from the declared view, or they are taken to
    be the slide's own pixels.

    Raises
    ------
    InvalidNameError
        If the declared view is no view, or is more than 5 % off what the slide has.
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
    if name is None:
        return ImportedView(f"{digits(fov_um)}um-{digits(view_mpp)}", fov_um, view_mpp)
    parsed = FeatureKey.parse(f"x@{name}").view
    numbers = _numbers(parsed)
    if not foreign.patch_px:
        view_mpp = numbers[1]  # no file says it, so the declared view does
    for what, wanted, found in zip(("um a side", "um/px"), numbers, (fov_um, view_mpp), strict=True):
        if max(wanted, found) > MAX_DISAGREEMENT * min(wanted, found):
            msg = (
                f"slide {foreign.slide_id}: view {name} has {wanted:g} {what}, the patches have {found:.4g}: "
                f"give the view they were cut at, about {digits(fov_um)}um-{digits(view_mpp)}"
            )
            raise InvalidNameError(msg)
    return ImportedView(parsed, fov_um, view_mpp)


def _numbers(view: str) -> tuple[float, float]:
    """Field in um and um/px that the name of a view says."""
    if view in VIEW_ALIASES:
        return VIEW_ALIASES[view]
    if "um-" not in view:
        msg = f"view {view!r} says no field in um: give it as <um>um-<um per px>, for example 128um-0.5"
        raise InvalidNameError(msg)
    fov_um, mpp = view.split("um-")
    return float(fov_um), float(mpp)


def settle_key(foreign: Foreign, declared: Declared, *, encoder: str, view: ImportedView) -> str:
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


def declared_fingerprint(foreign: Foreign, *, encoder: str, view: ImportedView) -> str:
    """Fingerprint of features whose encoder is only known by name.

    Equal for files of the same tool (and the same of its versions, where its files say that), encoder name, view,
    pixels per patch and layout; never equal to a fingerprint that tissuary computed, which is 64 hexadecimal digits.
    """
    shaping = {
        "tool": foreign.tool,
        "encoder": encoder,
        "view": view.name,
        "patch_px": round(view.fov_um / view.mpp),
        "layout": foreign.layout,
        **foreign.identity,
    }
    canonical = json.dumps(shaping, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"declared:{encoder}:{hashlib.sha256(canonical.encode()).hexdigest()}"


def set_name(foreign: Foreign, declared: Declared, *, view: ImportedView) -> str:
    """Name of the patch set: spots, or the tool's grid by its stride in um (`trident-127.7um`).

    The tool is part of the name because its grid of a slide is not that of another tool at the same stride.
    """
    if declared.patches or foreign.patch_set:
        return declared.patches or foreign.patch_set or ""
    fov_um = _numbers(view.name)[0]
    stride_um = digits(fov_um * (1 - foreign.overlap))
    tile = f"-tile{digits(fov_um)}um" if foreign.overlap else ""
    return f"{foreign.tool.lower()}-{stride_um}um{tile}"
