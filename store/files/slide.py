"""The slide file: geometry and scale, a thumbnail, the tissue mask."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Bools, Pixels
from ..errors import StoreError
from ..naming import UNKNOWN_PATIENT, patient_name
from .atomic import atomic_path
from .checksums import seal_datasets
from .schema import SLIDE, create_h5, open_h5, required

SAME_MPP = 1e-6
"""Relative difference up to which two um/px are one: a fitted spot pitch differs in its last digits by processor."""

UNPLACED = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of JPEG, PNG and TIFF: where OpenSlide knows no scanner's format in them, the image is all there is."""


@dataclass(frozen=True)
class SlideRecord:
    """What is known of one slide.

    Attributes
    ----------
    width_px, height_px
        Size of level 0.
    mpp
        um per level-0 pixel.
    mpp_source
        Which candidate was taken ("manifest", "command line", "metadata", "spot pitch").
    mpp_candidates
        Every candidate that was seen, by source.
    source
        The image that was read.
    source_digest
        sha256 over its size, first and last MiB.
    bounds_px
        x, y, width and height of the part of level 0 that the scanner filled, level-0 pixels: all of it unless the
        format places scanned parts on a larger slide (MIRAX, Leica and others, OpenSlide's `bounds-x` and so on). None
        where the image was not at hand, or the store is older than this field; `scanned_bounds` then looks at the
        image. Every coordinate in a store counts from the corner of level 0; QuPath counts from that of these bounds.
    synthetic
        Whether the image says that a program drew it; False of a file without the attribute.
    """

    slide_id: str
    patient_id: str
    width_px: int
    height_px: int
    mpp: float
    mpp_source: str
    mpp_candidates: dict[str, float]
    source: str
    source_digest: str
    created_by: str
    bounds_px: tuple[int, int, int, int] | None = None
    synthetic: bool = False


def write_slide(path: Path, record: SlideRecord, *, thumbnail: Pixels | None, tissue: Bools | None = None) -> None:
    """Write a slide file.

    Parameters
    ----------
    thumbnail
        (h, w, 3) picture of the whole slide; None where its image was not at hand.
    tissue
        (h, w) mask on the thumbnail's grid, where one was made.
    """
    with atomic_path(path, once=True) as temporary, create_h5(temporary, SLIDE) as file:
        file.attrs.update(
            {
                "slide_id": record.slide_id,
                "patient_id": record.patient_id,
                "width": record.width_px,
                "height": record.height_px,
                "mpp": record.mpp,
                "mpp_source": record.mpp_source,
                "mpp_candidates": json.dumps(record.mpp_candidates, sort_keys=True),
                "source": record.source,
                "source_digest": record.source_digest,
                "created_by": record.created_by,
            }
        )
        if record.synthetic:
            file.attrs["synthetic"] = True
        if record.bounds_px is not None:
            file.attrs["bounds"] = json.dumps(record.bounds_px)
        planes = {"thumbnail": thumbnail, "tissue": None if tissue is None else tissue.astype(np.uint8)}
        for name, plane in planes.items():
            if plane is not None:
                file.create_dataset(name, data=plane, track_times=False)
        seal_datasets(file)


def read_slide(path: Path) -> SlideRecord:
    """Read everything but the pictures."""
    with open_h5(path, SLIDE) as file:
        a = file.attrs
        return SlideRecord(
            slide_id=str(required(a, "slide_id", path)),
            # Stores keep ids as their version spelled them: 7.0 of an older one is 7 of today's.
            patient_id=patient_name(required(a, "patient_id", path)) or f"{UNKNOWN_PATIENT}{a.get('slide_id', '')}",
            width_px=int(required(a, "width", path)),
            height_px=int(required(a, "height", path)),
            mpp=float(required(a, "mpp", path)),
            mpp_source=str(required(a, "mpp_source", path)),
            mpp_candidates=json.loads(required(a, "mpp_candidates", path)),
            source=str(required(a, "source", path)),
            source_digest=str(required(a, "source_digest", path)),
            created_by=str(required(a, "created_by", path)),
            bounds_px=_bounds(a.get("bounds"), path),
            synthetic=bool(a.get("synthetic", False)),
        )


def _bounds(text: Any, path: Path) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        x, y, width, height = map(operator.index, json.loads(text))
    except (TypeError, ValueError) as error:
        msg = f"{path}: its attribute bounds is {text!r}; wanted [x, y, width, height] in whole pixels: it is damaged"
        raise StoreError(msg) from error
    return x, y, width, height


def openslide_bounds(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """OpenSlide's `bounds-x`, `-y`, `-width`, `-height`; None unless all four are there, as whole numbers."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return x, y, width, height


def scanned_bounds(record: SlideRecord) -> tuple[int, int, int, int] | None:
    """Bounds of a slide as the store has them, else as its image says; None where the image cannot be read either."""
    if record.bounds_px is not None:
        return record.bounds_px
    whole, path = (0, 0, record.width_px, record.height_px), Path(record.source)
    try:
        from openslide import OpenSlide, OpenSlideError
    except (ImportError, OSError):  # the package, or the library that it loads
        return None
    try:
        with path.open("rb") as file:
            unplaced = file.read(4).startswith(UNPLACED)
        if OpenSlide.detect_format(path) is None:
            return whole if unplaced else None
        with OpenSlide(path) as image:
            same = image.dimensions == (record.width_px, record.height_px)
            return (openslide_bounds(image.properties) or whole) if same else None
    except (OpenSlideError, OSError):
        return None


def coordinate_frame(bounds_px: tuple[int, int, int, int] | None) -> dict[str, Any]:
    """In which frame coordinates of a store are, and where another one begins in it, as AnnData keeps it in `uns`.

    Parameters
    ----------
    bounds_px
        As `scanned_bounds` finds them.
    """
    unknown = "not known: neither store nor image says which part the scanner filled"
    return {
        "frame": "level-0 pixels, x then y, from the corner of the whole image as OpenSlide reads it",
        "bounds_px": unknown if bounds_px is None else np.array(bounds_px, dtype=np.int64),
    }


def read_thumbnail(path: Path) -> Pixels:
    """Read the thumbnail (h, w, 3)."""
    with open_h5(path, SLIDE) as file:
        if "thumbnail" not in file:
            msg = f"{path} holds no thumbnail: the slide was imported without its image, or the file was damaged"
            raise StoreError(msg)
        return np.asarray(file["thumbnail"])


SYNTHETIC_SOFTWARE = "tissuary synthetic cohort"
"""Tag Software of a synthetic picture: it travels with the file, whatever the file is called."""
