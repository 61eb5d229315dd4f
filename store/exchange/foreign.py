"""What a file of another tool holds, in one shape for all tools; and what only the command line can say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Ints, Pixels, Strings
from ..errors import StoreError
from .hdf import text


@dataclass(frozen=True)
class FileToImport:
    """One file to import.

    Attributes
    ----------
    partner
        The file beside it that holds what this one leaves out (coordinates, scale), where there is one.
    rivals
        Other files that could be the partner just as well.
    """

    slide_id: str
    path: Path
    partner: Path | None = None
    rivals: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ExternalSlide:
    """Patches of one slide as another tool wrote them, its conventions named and not yet converted.

    Attributes
    ----------
    top_left
        (n, 2) corners of the patches, x then y, in `unit`; None where the file holds no coordinates.
    unit
        "px" (level 0) or "um".
    side
        Side of a patch at level 0, in `unit`; None where no file says it.
    cut
        How `side` became pixels of level 0: "exact", or "whole", rounded up to whole pixels (see `whole_tiles`).
    patch_px
        Side of the picture that was cut, in its own pixels.
    center_px
        (n, 2) exact centres, where tissuary left them in the file.
    features
        (n, dim) or (n, tokens, dim) as stored; None where the file holds patches only.
    encoder
        As the file says.
    hint
        What folder names suggest as encoder; never taken, only told.
    barcode
        (n,) names of spots, where there are any.
    mpp
        um per level-0 pixel as the file says.
    label
        What the tool calls level 0 ("20x"), and the um/px from and below which it does; a label is never a scale.
    size_px
        Width and height of level 0 as the file says.
    layout
        Layout of the feature key, where rows hold several vectors.
    patch_set, view, name
        Names under which a store held patches, view and encoder, where tissuary left them in the file; or the view that
        the tool was told to cut.
    array
        (n, 2) rows and columns, where tissuary left them in the file.
    overlap
        Share of a patch's side by which neighbours overlap, as the file says.
    rounding_px
        How far the tool's rounding moves a centre at most.
    identity
        What else tells these features from others of the same encoder and view (a hash of the tool's code).
    details
        Everything worth keeping on record, as JSON values; no paths.
    notes
        What a person should know of this file.
    """

    slide_id: str
    tool: str
    top_left: Floats | None
    unit: str = "px"
    side: float | None = None
    cut: str = "exact"
    patch_px: float | None = None
    center_px: Floats | None = None
    features: Floats | None = None
    encoder: str | None = None
    hint: str | None = None
    barcode: Strings | None = None
    mpp: float | None = None
    label: tuple[str, float, float] | None = None
    size_px: tuple[int, int] | None = None
    layout: str | None = None
    patch_set: str | None = None
    view: str | None = None
    name: str | None = None
    array: Ints | None = None
    overlap: float = 0.0
    rounding_px: float = 1e-3
    identity: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        column = self.top_left if self.top_left is not None else self.features
        return 0 if column is None else len(column)


@dataclass(frozen=True)
class SlideMetadata:
    """What the image of a slide says, where it is at hand.

    Attributes
    ----------
    mpp
        um per level-0 pixel of its metadata, or None.
    thumbnail
        (h, w, 3).
    bounds_px
        As `SlideRecord` has it.
    """

    width_px: int
    height_px: int
    mpp: float | None
    source: str
    source_digest: str
    thumbnail: Pixels
    bounds_px: tuple[int, int, int, int] | None = None


Look = Callable[[str], SlideMetadata | None]
"""Looks at the image of a slide id; None where there is none. Reading pixels is not this room's work."""


@dataclass(frozen=True)
class Declared:
    """What the command line says where the files do not.

    Attributes
    ----------
    mpp
        um per level-0 pixel, of all slides.
    mpp_of
        The same, slide by slide; it comes before `mpp`.
    encoder
        Name of the encoder that made the features.
    patch_px
        Side of a patch in level-0 pixels.
    view
        Name of the view under which slides of slightly different scale are kept together.
    name
        Name of the encoder in the feature key (`--as`), where its own is taken or cannot be one.
    patches
        Name of the patch set.
    patient_of
        Patient by slide.
    """

    mpp: float | None = None
    mpp_of: Mapping[str, float] = field(default_factory=dict)
    encoder: str | None = None
    patch_px: float | None = None
    view: str | None = None
    name: str | None = None
    patches: str | None = None
    patient_of: Mapping[str, str] = field(default_factory=dict)

    def scale_of(self, slide_id: str) -> float | None:
        """um per level-0 pixel that was declared for a slide."""
        return self.mpp_of.get(slide_id, self.mpp)


def as_stored(foreign: ExternalSlide) -> ExternalSlide:
    """The same with features of a type that a store holds: float16 and float32 stay, wider ones become float32.

    Whether that rounded anything is said in the notes.
    """
    features = foreign.features
    if features is None or features.dtype.itemsize <= 4:
        return foreign
    narrow = features.astype(np.float32)
    if np.array_equal(narrow, features):
        return replace(foreign, features=narrow)
    note = f"features were rounded from {features.dtype} to float32, the widest that a store holds"
    return replace(foreign, features=narrow, notes=(*foreign.notes, note))


def plain_number(value: float) -> float | int:
    """`value` as a JSON number, whole where it is."""
    return int(value) if float(value).is_integer() else float(value)


def digits(value: float) -> str:
    """Four significant digits without exponent, as names of views hold them: `127.7`, `0.499`, `128`."""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


MARK = "tissuary"
"""Attribute, JSON, in which an export keeps what the other tool's format has no place for."""


@dataclass(frozen=True)
class RoundTripTags:
    """What tissuary leaves in a file that it exports: scale, and the names that a store held it under.

    Attributes
    ----------
    slide_mpp
        um per level-0 pixel.
    fov_um, mpp
        The patch: side, and um per pixel of its own.
    encoder
        As the feature key has it.
    dtype
        Of the features in the store.
    """

    slide_mpp: float
    fov_um: float
    mpp: float
    encoder: str
    view: str
    patches: str
    dtype: str

    def text(self) -> str:
        """As the attribute `MARK` holds it."""
        return json.dumps(asdict(self), sort_keys=True)


def _mark(said: dict[str, Any]) -> RoundTripTags:
    """A mark whose values have the types that an export gives them."""
    mark = RoundTripTags(**said)
    for name, kind in RoundTripTags.__annotations__.items():
        value = getattr(mark, name)
        if not isinstance(value, str if kind == "str" else (int, float)) or isinstance(value, bool):
            msg = f"{name} is {value!r}"
            raise TypeError(msg)
    return mark


def mark_in(attributes: Any) -> RoundTripTags | None:
    """What tissuary left in a file that it exported; None in files of others.

    Raises
    ------
    StoreError
        If it is there and says nothing sensible.
    """
    value = text(attributes, MARK)
    if value is None:
        return None
    try:
        mark = _mark(json.loads(value))
    except (ValueError, TypeError, RecursionError) as error:
        msg = f"attribute {MARK!r} is not what an export writes ({error}): export it again"
        raise StoreError(msg) from error
    lengths = [mark.slide_mpp, mark.fov_um, mark.mpp]
    if not all(0 < length < np.inf for length in lengths):
        msg = f"attribute {MARK!r} has lengths {lengths}; wanted positive ones: export it again"
        raise StoreError(msg)
    return mark
