"""A prediction as GeoJSON for QuPath: one detection or tile a row, in level-0 pixels, with measurements."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ...store.atomic import atomic_path
from .marks import mark_of
from .slide_map import SlideMap

OBJECTS = {"square": "tile", "circle": "detection"}
"""Shape of a row, and what QuPath calls such an object."""

DISTANCE, UNFAMILIAR = "distance to training data", "share of training spots nearer"
FLAG = {"name": "Unlike training data", "color": [179, 71, 0]}
"""Class of flagged rows, so that QuPath can show or hide them."""

_NAMESPACE = uuid.UUID("6f1c8f0e-7d0c-5d53-9f0c-3f3f4b1f8a11")


def write_qupath(path: Path, slide: SlideMap) -> None:
    """Write a FeatureCollection, as QuPath 0.4 and later import it (drop the file on the open slide).

    Every feature has a UUID, which is always the same for a run, slide and row, a closed polygon, and `properties`
    `objectType`, `name`, `isLocked`, `measurements` (a map of names to numbers) and, where it is flagged,
    `classification`. Source: `QuPathTypeAdapters` of QuPath.

    Parameters
    ----------
    path
        A `.geojson`; it is written feature by feature.
    """
    outline = slide.shape.outline() / slide.mpp
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # The mark on the first line, where `read_mark` looks; readers pass over members that they do not know.
        head = json.dumps({"type": "FeatureCollection", **mark_of(slide), "features": []})
        file.write(head.removesuffix("]}") + "\n")
        for row in range(len(slide.center_px)):
            file.write(",\n" if row else "")
            file.write(json.dumps(_feature(slide, row, outline), allow_nan=False))
        file.write("\n]}\n")


def _feature(slide: SlideMap, row: int, outline: np.ndarray) -> dict[str, Any]:
    corners = np.round(slide.center_px[row] + outline, 2)
    barcode = str(slide.barcode[row])
    measured = {gene: _rounded(values[row]) for gene, values in slide.values.items()}
    measured |= {DISTANCE: _rounded(slide.distance[row]), UNFAMILIAR: _rounded(slide.unfamiliar[row])}
    properties: dict[str, Any] = {
        "objectType": OBJECTS[slide.shape.kind],
        "name": barcode,
        "isLocked": True,
        "measurements": {name: value for name, value in measured.items() if np.isfinite(value)},
    }
    if slide.flagged[row]:
        properties["classification"] = FLAG
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{slide.run_id}/{slide.slide_id}/{barcode}")),
        "geometry": {"type": "Polygon", "coordinates": [corners.tolist()]},
        "properties": properties,
    }


def _rounded(value: np.float32) -> float:
    """To as many digits as a float32 has."""
    return float(f"{float(value):.7g}")
