"""um/px as image files carry it: units of length, OME-XML, ImageJ's unit, resolution tags, Aperio's description."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...store.errors import ScaleError
from ...store.files.slide import SYNTHETIC_SOFTWARE
from ...store.scale import MAX_DISAGREEMENT, is_plausible

_SI = {
    "quetta Q 30", "ronna R 27", "yotta Y 24", "zetta Z 21", "exa E 18", "peta P 15", "tera T 12", "giga G 9",
    "mega M 6", "kilo k 3", "hecto h 2", "deca da 1", "deci d -1", "centi c -2", "milli m -3", "micro µ -6",
    "nano n -9", "pico p -12", "femto f -15", "atto a -18", "zepto z -21", "yocto y -24",
}  # fmt: skip
_PREFIXES = [(name, symbol, 10.0 ** (int(power) + 6)) for name, symbol, power in (one.split() for one in sorted(_SI))]
_SYMBOLS = {f"{symbol}m": um for _, symbol, um in _PREFIXES} | {
    "m": 1e6, "um": 1.0, "µ": 1.0, "Å": 1e-4, "A": 1e-4, "in": 25400.0, '"': 25400.0, "ft": 304800.0, "yd": 914400.0,
    "mi": 1609344000.0, "thou": 25.4, "li": 25400.0 / 12, "pt": 25400.0 / 72,
}  # fmt: skip
_NAMES = {f"{name}meter": um for name, _, um in _PREFIXES} | {
    "meter": 1e6, "micron": 1.0, "angstrom": 1e-4, "inch": 25400.0, "inche": 25400.0, "foot": 304800.0,
    "feet": 304800.0, "yard": 914400.0, "mile": 1609344000.0,
}  # fmt: skip

_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}  # TIFF 6.0: inch, centimetre
_PLANE_NAMES = re.compile(r"label|macro|overview|thumbnail", re.IGNORECASE)
_APERIO_SIZE = re.compile(r"(\d+)x(\d+)\s*(?:\[\d+,\d+[ ,](\d+)x(\d+)\])?\s*\(\d+x\d+\)(?:\s*->\s*(\d+)x(\d+))?")
_SAME_SIZE = 0.01  # Aperio's own sizes are exact; a resize by less would not matter for um/px

log = logging.getLogger(__name__)


def um_per_unit(unit: str) -> float | None:
    """How many um a unit of length has; None where it is no unit of length.

    Symbols as in OME-XML ("nm", "µm", "Mm" and "mm" apart), names as in OME-NGFF ("nanometer"), in British spelling
    and plural too.
    """
    text = unit.strip().replace("\\u00B5", "\u00b5").replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")
    if text in _SYMBOLS:
        return _SYMBOLS[text]
    name = text.lower().removesuffix("s").replace("metre", "meter")
    return _NAMES.get(name)


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
    images = list(ome_images(file)) if file.is_ome else []
    if images:
        pixels = ome_pixels_of(images, page)
        if pixels is None:
            log.warning(
                "image %s: its OME-XML has no image of %d x %d px, so it was written for another file, and what it and "
                "the resolution tags say of um/px is not taken: give --mpp", path, page.imagewidth, page.imagelength,
            )  # fmt: skip
            return None
        x, y = ome_size(pixels, "X"), ome_size(pixels, "Y")
        if x is not None or y is not None:
            return square_mpp(x, y, path)
    per_unit = [_per_unit(page, tag) for tag in ("XResolution", "YResolution")]
    if file.is_imagej:
        um = um_per_unit(str((file.imagej_metadata or {}).get("unit", "")))
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


def ome_images(file: Any) -> Iterator[tuple[str, ElementTree.Element]]:
    """Name and `Pixels` of each image in the OME-XML of an open `tifffile.TiffFile`; none where it is damaged."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "")
    except ElementTree.ParseError:
        return
    for image in root.iterfind(".//{*}Image"):
        for pixels in image.iterfind("{*}Pixels"):
            yield image.get("Name") or image.get("ID") or "", pixels


def ome_pixels_of(images: list[tuple[str, ElementTree.Element]], page: Any) -> ElementTree.Element | None:
    """`Pixels` of the image that a page begins, by both of its sides and its place in the file.

    None where no image has these sides, or several that differ in um/px have and none names this page.
    """
    sides = (str(page.imagewidth), str(page.imagelength))
    fitting = [pixels for _, pixels in images if (pixels.get("SizeX"), pixels.get("SizeY")) == sides]
    for pixels in fitting:
        data = pixels.find("{*}TiffData")
        if data is not None and data.get("IFD", "0") == str(page.index):
            return pixels
    sizes = {(ome_size(pixels, "X"), ome_size(pixels, "Y")) for pixels in fitting}
    return fitting[0] if len(sizes) == 1 else None


def ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """Side of a pixel along "X" or "Y" in um, as an image of OME-XML says."""
    um = um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return None if um is None else float(pixels.get(f"PhysicalSize{axis}", "")) * um
    except ValueError:
        return None


def is_beside(name: str) -> bool:
    """Whether an image of this name goes with a slide: its label, macro, overview or thumbnail."""
    return _PLANE_NAMES.search(name) is not None


def aperio_is_of(description: str, size_px: tuple[int, int], path: Path) -> bool:
    """Whether an Aperio description was written for a level 0 of this width and height.

    Programs that resize or crop a slide (libvips) carry the description over, and its um/px no longer holds. The size
    that it names itself tells. True where it names none.
    """
    found = _APERIO_SIZE.search(description.split(";")[0])
    if found is None:
        return True
    whole, part, scaled = ((found[i], found[i + 1]) for i in (1, 3, 5))
    described = [int(side) for side in (part if part[0] else whole)]
    if scaled[0] is None and all(abs(a - b) <= _SAME_SIZE * b for a, b in zip(described, size_px, strict=True)):
        return True
    log.warning(
        "image %s: its Aperio description is of %d x %d px, level 0 has %d x %d px: it was resized or cropped later, "
        "so the um/px in the description is not taken: give --mpp", path, *described, *size_px,
    )  # fmt: skip
    return False


def is_synthetic(path: Path) -> bool:
    """Return whether an image says in its tag Software that its picture is synthetic; False for what is no TIFF."""
    import tifffile

    if path.is_dir():
        return False
    try:
        with tifffile.TiffFile(path) as file:
            tag = file.pages[0].tags.get("Software")
    except (OSError, ValueError, LookupError, struct.error):  # no TIFF, or one that only another reader understands
        return False
    return tag is not None and tag.value == SYNTHETIC_SOFTWARE
