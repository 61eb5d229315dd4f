"""A prediction as GeoJSON for QuPath: one detection or tile a row, in QuPath's pixels, with measurements."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ...store.files.atomic import atomic_path
from .file import PredictionFacts
from .slide_map import Mark, SlideMap, mark_of

OBJECTS = {"square": "tile", "circle": "detection"}
"""Shape of a row, and what QuPath calls such an object."""

DISTANCE, UNFAMILIAR = "distance to training data", "share of training spots nearer"
FLAG = {"name": "Unlike training data", "color": [179, 71, 0]}
"""Class of flagged rows, so that QuPath can show or hide them."""

COORDINATES, OVERLAP = "tissuary-coordinates", "tissuary-training"
"""Members of the file that say in which frame its coordinates are, and what the slide shares with training."""

_NAMESPACE = uuid.UUID("6f1c8f0e-7d0c-5d53-9f0c-3f3f4b1f8a11")


def qupath_frame(facts: PredictionFacts) -> tuple[tuple[int, int], str]:
    """Corner (x, y) of what QuPath shows in level-0 pixels, and the frame of the coordinates in words.

    QuPath opens a slide through OpenSlide cropped to `openslide.bounds-x`, `-y`, `-width` and `-height` where all four
    are there, unless it is given `--no-crop`, and counts pixels from that corner. Source: `OpenslideImageServer` of
    QuPath.
    """
    if facts.bounds_px is None:
        words = (
            "level-0 pixels from the corner of the whole image; whether QuPath crops this image is not known, as the "
            "store does not say and the image could not be read"
        )
        return (0, 0), words
    x, y, width, height = facts.bounds_px
    if (x, y, width, height) == (0, 0, facts.slide.width_px, facts.slide.height_px):
        return (0, 0), "level-0 pixels from the corner of the whole image, which QuPath shows uncropped"
    words = (
        f"level-0 pixels from the corner of the scanned part (OpenSlide bounds x={x} y={y} width={width} "
        f"height={height}), to which QuPath crops this image"
    )
    return (x, y), words


def qupath_mark(slide: SlideMap) -> Mark:
    """The mark of a slide's GeoJSON."""
    return mark_of(slide, qupath_frame(slide.facts)[1], slide.facts.overlap.words)


def write_qupath(path: Path, slide: SlideMap) -> None:
    """Write a FeatureCollection, as QuPath 0.4 and later import it (drop the file on the open slide).

    Every feature has a UUID, which is always the same for a run, slide and row, a closed polygon, and `properties`
    `objectType`, `name`, `isLocked`, `measurements` (a map of names to numbers) and, where it is flagged,
    `classification`. Source: `QuPathTypeAdapters` of QuPath. Coordinates are those of QuPath; see `qupath_frame`.

    Parameters
    ----------
    path
        A `.geojson`; it is written feature by feature.
    """
    corner_px, frame = qupath_frame(slide.facts)
    outline = slide.facts.shape.outline() / slide.facts.slide.mpp - np.array(corner_px)
    # The mark on the first line, where `read_mark` looks; readers pass over members that they do not know.
    words = {**qupath_mark(slide), COORDINATES: frame, OVERLAP: slide.facts.overlap.words}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        head = json.dumps({"type": "FeatureCollection", **words, "features": []})
        file.write(head.removesuffix("]}") + "\n")
        for row in range(len(slide.distance)):
            file.write(",\n" if row else "")
            file.write(json.dumps(_feature(slide, row, outline), allow_nan=False))
        file.write("\n]}\n")


def _feature(slide: SlideMap, row: int, outline: np.ndarray) -> dict[str, Any]:
    facts = slide.facts
    corners = np.round(facts.patches.center_px[row] + outline, 2)
    barcode = str(facts.patches.barcode[row])
    measured = {gene: _rounded(values[row]) for gene, values in slide.values.items()}
    measured |= {DISTANCE: _rounded(slide.distance[row]), UNFAMILIAR: _rounded(slide.unfamiliar[row])}
    properties: dict[str, Any] = {
        "objectType": OBJECTS[facts.shape.kind],
        "name": barcode,
        "isLocked": True,
        "measurements": {name: value for name, value in measured.items() if np.isfinite(value)},
    }
    if slide.flagged[row]:
        properties["classification"] = FLAG
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{facts.run['id']}/{facts.slide.slide_id}/{barcode}")),
        "geometry": {"type": "Polygon", "coordinates": [corners.tolist()]},
        "properties": properties,
    }


def _rounded(value: np.float32) -> float:
    """To as many digits as a float32 has."""
    return float(f"{float(value):.7g}")
