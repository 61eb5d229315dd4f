"""um/px as TIFF files carry it: OME-XML, ImageJ's unit, or the resolution tags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..store.errors import ScaleError
from ..store.scale import MAX_DISAGREEMENT, is_plausible

UM_PER_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Both code points of the micro sign occur in files."""

_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}  # TIFF 6.0: inch, centimetre


def square_mpp(x_mpp: float | None, y_mpp: float | None, path: Path) -> float | None:
    """One um/px from those of the two axes; None where neither is said.

    Raises
    ------
    ScaleError
        If both could be a slide's and they differ: everything after takes pixels for square.
    """
    stated = [v for v in (x_mpp, y_mpp) if v is not None and math.isfinite(v) and v > 0]
    if not stated:
        return None
    if all(map(is_plausible, stated)) and max(stated) / min(stated) > MAX_DISAGREEMENT:
        msg = (
            f"image {path}: its metadata say {x_mpp:g} um/px across and {y_mpp:g} um/px down; pixels must be square. "
            "Resample the image, or correct its resolution tags."
        )
        raise ScaleError(msg)
    return sum(stated) / len(stated)


def tiff_mpp(file: Any, page: Any, path: Path) -> float | None:
    """um/px of one page of an open `tifffile.TiffFile`, whichever way it is said.

    Raises
    ------
    ScaleError
        If pixels are not square.
    """
    if file.is_ome:
        x, y = _ome_mpp(file.ome_metadata, width_px=page.imagewidth)
        if x is not None or y is not None:
            return square_mpp(x, y, path)
    per_unit = [_per_unit(page, tag) for tag in ("XResolution", "YResolution")]
    if file.is_imagej:
        # `unit` may come as the escape "\u00B5m", six characters and an m.
        unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        um = UM_PER_UNIT.get(unit)
    else:
        tag = page.tags.get("ResolutionUnit")
        um = _UM_PER_RESOLUTION_UNIT.get(2 if tag is None else int(tag.value))  # the standard's default is inch
    if um is None:
        return None
    x, y = (None if n is None else um / n for n in per_unit)
    return square_mpp(x, y, path)


def _per_unit(page: Any, tag: str) -> float | None:
    """Pixels per resolution unit."""
    found = page.tags.get(tag)
    if found is None:
        return None
    numerator, denominator = found.value
    return numerator / denominator if numerator and denominator else None


def _ome_mpp(xml: str | None, *, width_px: int) -> tuple[float | None, float | None]:
    """PhysicalSizeX and -Y in um of the image of this width; other images of the file are labels and overviews."""
    try:
        root = ElementTree.fromstring(xml or "")
    except ElementTree.ParseError:
        return None, None
    for pixels in root.findall(".//{*}Pixels"):
        if pixels.get("SizeX") == str(width_px):
            return _ome_size(pixels, "X"), _ome_size(pixels, "Y")
    return None, None


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    um = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return None if um is None else float(pixels.get(f"PhysicalSize{axis}", "")) * um
    except ValueError:
        return None
