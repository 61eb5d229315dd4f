"""The slide file: geometry and scale, a thumbnail, the tissue mask."""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Bools, Pixels
from .atomic import atomic_path
from .checksums import seal_datasets
from .errors import StoreError
from .schema import SLIDE, create_h5, open_h5, required

SAME_MPP = 1e-6
"""Relative difference up to which two um/px are one: a fitted spot pitch differs in its last digits by processor."""


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
        x, y, width and height of the part of level 0 that the scanner filled, level-0 pixels, where its format says
        so (MIRAX, Leica and others, OpenSlide's `bounds-x` and so on); None where it is all of the slide or unknown.
        Every coordinate in a store counts from the corner of level 0; QuPath counts from the corner of these bounds.
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
            patient_id=str(required(a, "patient_id", path)),
            width_px=int(required(a, "width", path)),
            height_px=int(required(a, "height", path)),
            mpp=float(required(a, "mpp", path)),
            mpp_source=str(required(a, "mpp_source", path)),
            mpp_candidates=json.loads(required(a, "mpp_candidates", path)),
            source=str(required(a, "source", path)),
            source_digest=str(required(a, "source_digest", path)),
            created_by=str(required(a, "created_by", path)),
            bounds_px=_bounds(a.get("bounds"), path),
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


def read_thumbnail(path: Path) -> Pixels:
    """Read the thumbnail (h, w, 3)."""
    with open_h5(path, SLIDE) as file:
        if "thumbnail" not in file:
            msg = f"{path} holds no thumbnail: the slide was imported without its image, or the file was damaged"
            raise StoreError(msg)
        return np.asarray(file["thumbnail"])
