"""Names of imported features: their encoder, view, key, fingerprint and patch set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import isclose

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


def settle_view(foreign: Foreign, declared: Declared, *, side_px: float, mpp: float) -> ImportedView:
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


def _check_native(foreign: Foreign, *, side_px: float, own: str) -> None:
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


def set_name(foreign: Foreign, declared: Declared, *, view: ImportedView) -> str:
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
