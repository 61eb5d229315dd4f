"""Whether valid slides of every kind are read right: pixels within the coding's rounding and um/px equal, or refused.

    python -m tissuary.benchmarks.slide_formats [--folder KEEP] [--dicom FOLDER ...]

Each case writes one small slide of known pixels and um/px. The goal is none that is read wrongly in silence. DICOM
slides are made elsewhere, of the same picture (`picture()`, 0.5 um/px), and named with `--dicom`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from ..featurize.slides.open import open_slide
from ..store.arrays import Pixels
from ..store.errors import TissuaryError
from ..store.scale import is_plausible
from .slide_writers import Ngff, Pages, aperio, from_ycbcr, j2k_as_is, jpeg, ome, photo, picture, shown, tiff, to_ycbcr

MPP = 0.5
LOSSY = 6
"""Twice the grey levels by which codings with loss may differ on average, on a smooth picture at high quality."""

CODINGS = {
    "none": 0, "lzw": 0, "adobe_deflate": 0, "deflate": 0, "packbits": 0, "lzma": 0, "zstd": 0, "png": 0, "lerc": 0,
    "webp": 0, "jpegxl": 0, "jpegxr": 0, "jpeg2000": 0, "aperio_jp2000_rgb": 0, "aperio_jp2000_ycbc": 0, "jpeg": LOSSY,
}  # fmt: skip
"""Compressions that tifffile writes, and the grey levels that each may be off."""

LOSSLESS = {"webp": {"lossless": True}, "jpegxl": {"lossless": True}, "jpegxr": {"level": 1.0}, "jpeg": {"level": 95}}
UNITS = {
    "angstrom": 1e-4, "picometer": 1e-6, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4,
    "decimeter": 1e5, "meter": 1e6, "inch": 25400.0, "foot": 304800.0, "micrometre": 1.0, "um": 1.0,
}  # fmt: skip
OME_UNITS = {"Å": 1e-4, "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0, "thou": 25.4}


@dataclass(frozen=True)
class Case:
    """One valid slide.

    Attributes
    ----------
    write
        Writes it into a folder and returns its path.
    mpp
        um/px that its file says; None where it does not.
    pixels
        (h, w, 3) level 0.
    rounding
        Grey levels that a right reader may be off at most; `LOSSY` for codings with loss.
    refused
        Pattern of the error, where refusing is what is wanted.
    """

    group: str
    name: str
    write: Callable[[Path], Path]
    mpp: float | None = MPP
    pixels: Pixels = field(default_factory=lambda: picture())
    rounding: int = 0
    refused: str = ""


def examine(case: Case, path: Path) -> tuple[str, str]:
    """Read a slide: "right", "refused" or "wrong", and what was seen."""
    try:
        with open_slide(path) as slide:
            mpp = slide.metadata_mpp
            levels = [slide.read(i, 0, 0, *size) for i, size in enumerate(slide.level_dimensions)]
    except TissuaryError as error:
        return "refused", str(error)
    mpp = mpp if mpp is not None and is_plausible(mpp) else None
    if (mpp is None) != (case.mpp is None) or (mpp and case.mpp and not isclose(mpp, case.mpp, rel_tol=1e-3)):
        return "wrong", f"{mpp} um/px where {case.mpp} is right"
    if levels[0].shape != case.pixels.shape:
        return "wrong", f"shape {levels[0].shape} where {case.pixels.shape} is right"
    for number, level in enumerate(levels):
        rows, columns = level.shape[:2]
        across = case.pixels.shape[1] / columns
        # A coarser level was made by taking each n-th pixel, so that its pixels are known.
        step = round(across)
        difference = np.abs(level.astype(int) - case.pixels[::step, ::step][:rows, :columns].astype(int))
        # A JPEG rings beside what fills up its last tiles; a mean shows colours that are wrong all the same.
        off = difference.mean() * 2 if case.rounding == LOSSY else difference.max()
        if off > case.rounding:
            return "wrong", f"level {number} is off by {off:g} grey levels"
    return "right", f"{len(levels)} level(s), {mpp} um/px"


def cases() -> Iterator[Case]:
    """Every case."""
    yield from _codings()
    yield from _layouts()
    yield from _colours()
    yield from _scales()
    yield from _omes()
    yield from _ngffs()
    yield from _photos()


def _codings() -> Iterator[Case]:
    rgb, grey = picture(), picture()[..., 0]
    for coding, rounding in CODINGS.items():
        said: dict[str, Any] = {} if coding == "none" else {"compression": coding}
        said |= {"compressionargs": LOSSLESS[coding]} if coding in LOSSLESS else {}
        for tile in (True, False):
            how = "tiles" if tile else "strips"
            yield Case("coding", f"{coding}, {how}", tiff(rgb, tile=tile, **said), rounding=rounding)
        if coding not in ("webp", "jpeg", "aperio_jp2000_ycbc", "aperio_jp2000_rgb"):
            write = tiff(grey, photometric="minisblack", **said)
            yield Case("coding", f"{coding}, grey", write, pixels=np.repeat(grey[..., None], 3, 2), rounding=rounding)
    for coding in ("lzw", "adobe_deflate", "zstd"):
        yield Case("coding", f"{coding}, predictor", tiff(rgb, compression=coding, predictor=True))
    write = tiff(grey, photometric="minisblack", compression="jpeg", encode=jpeg)
    yield Case("coding", "jpeg, grey", write, pixels=np.repeat(grey[..., None], 3, 2), rounding=LOSSY)
    plain = {"level": 95, "colorspace": "RGB", "outcolorspace": "RGB"}
    for name, args in (("4:2:0", {"level": 95, "subsampling": (2, 2)}), ("4:4:4", {"level": 95}), ("RGB", plain)):
        for tile in (True, False):
            write = tiff(rgb, tile=tile, compression="jpeg", compressionargs=args)
            yield Case("coding", f"jpeg {name}, {'tiles' if tile else 'strips'}", write, rounding=LOSSY)
    ycbcr = to_ycbcr(rgb)
    write = tiff(ycbcr, photometric="ycbcr", compression="jpeg", compressionargs={"level": 95})
    yield Case("coding", "jpeg of YCbCr", write, rounding=LOSSY)
    for photometric, tile in (("rgb", True), ("rgb", False), ("ycbcr", True)):
        write = tiff(ycbcr, tile=tile, photometric=photometric, compression=33003, encode=j2k_as_is)
        name = f"33003 of YCbCr called {photometric}, {'tiles' if tile else 'strips'}"
        yield Case("coding", name, write, pixels=from_ycbcr(ycbcr), rounding=1)


def _layouts() -> Iterator[Case]:
    rgb = picture()
    for name, said in (
        ("BigTIFF", {"bigtiff": True}), ("big-endian", {"byteorder": ">"}),
        ("big-endian BigTIFF", {"bigtiff": True, "byteorder": ">"}), ("planar", {"planarconfig": "separate"}),
        ("planar, strips", {"planarconfig": "separate", "tile": False}),
        ("planar jpeg", {"planarconfig": "separate", "compression": "jpeg"}),
        ("one strip", {"tile": False, "rowsperstrip": 80}), ("strips of 7 rows", {"tile": False, "rowsperstrip": 7}),
        ("turned by its orientation tag", {"extratags": [(274, 3, 1, 6, True)]}),
    ):  # fmt: skip
        rounding = LOSSY if said.get("compression") == "jpeg" else 0
        yield Case("layout", name, tiff(rgb, **said), rounding=rounding)
    for steps in ((2, 4), (4, 16), (2, 4, 10), (4, 8, 40), (3, 7)):
        for where in ("pages", "SubIFDs", "pages not called reduced"):
            write = tiff(rgb, pages=Pages(steps, where))
            yield Case("layout", f"pyramid 1:{':'.join(map(str, steps))} in {where}", write)
    yield Case(
        "layout", "levels of another coding", tiff(rgb, pages=Pages((2,), level_options={"compression": "zlib"}))
    )
    yield Case("layout", "a mask beside", tiff(rgb, pages=Pages(mask=True)))
    yield Case("layout", "a label beside", tiff(rgb, pages=Pages(label=picture()[:30, :20])))
    yield Case("layout", "a tile left out", tiff(rgb, pages=Pages(sparse=True)), pixels=_without_first_tile(rgb))
    yield Case(
        "layout", "a strip left out", tiff(rgb, pages=Pages(sparse=True), tile=False), pixels=_without_first_strip(rgb)
    )
    yield Case("layout", "two pages of one size", tiff(np.stack([rgb, rgb[::-1]])), refused="axes .YXS of shape")


def _without_first_tile(pixels: Pixels) -> Pixels:
    out = pixels.copy()
    out[:32, :48] = 255
    return out


def _without_first_strip(pixels: Pixels) -> Pixels:
    out = pixels.copy()
    out[:32] = 255
    return out


def _colours() -> Iterator[Case]:
    rgb = picture()
    alpha = (np.arange(rgb.shape[1]) * 255 // (rgb.shape[1] - 1)).astype(np.uint8)[None, :, None]
    alpha = np.repeat(alpha, len(rgb), 0)
    share = alpha / 255
    shown = np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)
    straight = np.concatenate([rgb, alpha], 2)
    premultiplied = np.concatenate([np.rint(rgb * share).astype(np.uint8), alpha], 2)
    said: dict[str, Any]
    planar = {"planarconfig": "separate"}
    ways: tuple[tuple[str, dict[str, Any]], ...] = (("tiles", {}), ("strips", {"tile": False}), ("planar", planar))
    for name, said in ways:
        for kind, values in (("unassalpha", straight), ("assocalpha", premultiplied)):
            stored = values.transpose(2, 0, 1) if name == "planar" else values
            write = tiff(stored, extrasamples=[kind], planes_first=name == "planar", **said)
            yield Case("colour", f"{kind}, {name}", write, pixels=shown, rounding=1)
    grey = np.concatenate([rgb[..., :1], alpha], 2)
    on_white = np.rint(rgb[..., :1] * share + 255 * (1 - share)).astype(np.uint8).repeat(3, 2)
    write = tiff(grey, photometric="minisblack", extrasamples=["unassalpha"])
    yield Case("colour", "grey with alpha", write, pixels=on_white, rounding=1)
    yield Case("colour", "a fourth sample that is no alpha", tiff(straight, extrasamples=["unspecified"]))
    for name, values, said in (
        ("16-bit RGB", rgb.astype(np.uint16) * 257, {}),
        ("16-bit grey", rgb[..., 0].astype(np.uint16) * 257, {"photometric": "minisblack"}),
        ("signed bytes", rgb.astype(np.int8), {}), ("floats", rgb.astype(np.float32), {}),
        ("4-bit grey", rgb[..., 0] // 16, {"photometric": "minisblack", "bitspersample": 4}),
        ("bilevel", rgb[..., 0] > 128, {"photometric": "minisblack"}),
        ("min-is-white", 255 - rgb[..., 0], {"photometric": "miniswhite"}),
        ("CMYK", np.concatenate([255 - rgb, 0 * rgb[..., :1]], 2), {"photometric": "separated"}),
        ("CIELab", rgb, {"photometric": "cielab"}), ("YCbCr", rgb, {"photometric": "ycbcr"}),
        ("palette", rgb[..., 0], {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
        ("three samples of grey", rgb, {"photometric": "minisblack", "planarconfig": "contig"}),
    ):  # fmt: skip
        for tile in (True, False):
            how = "tiles" if tile else "strips"
            write = tiff(values, tile=tile, **said)
            yield Case("colour", f"{name}, {how}", write, refused="wanted|write it as RGB")
    for name, values, said in (
        ("16-bit", rgb.astype(np.uint16) * 257, {}), ("min-is-white", 255 - rgb[..., 0], {"photometric": "miniswhite"}),
        ("palette", rgb[..., 0], {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
    ):  # fmt: skip
        said = {"compression": "zlib", **said}
        yield Case("colour", f"{name} called Aperio", aperio(values, **said), refused="wanted 8-bit grey, RGB or YCbCr")


def _scales() -> Iterator[Case]:
    rgb = picture()
    said: dict[str, Any]
    mpp: float | None
    for unit, per_um in (("CENTIMETER", 1e4), ("INCH", 25400.0)):
        for mpp in (0.25, 0.5, 2.0):
            write = tiff(rgb, resolution=(per_um / mpp, per_um / mpp), resolutionunit=unit)
            yield Case("um/px", f"{mpp} in {unit.lower()}", write, mpp=mpp)
    tags: tuple[tuple[str, dict[str, Any], float | None], ...] = (
        ("print resolution", {"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ("libvips' unknown", {"resolution": (10, 10), "resolutionunit": "CENTIMETER"}, None),
        ("no unit", {"resolution": (20000, 20000), "resolutionunit": "NONE"}, None),
        ("none", {"resolution": (1, 1), "resolutionunit": "NONE"}, None),
    )
    for name, said, mpp in tags:
        yield Case("um/px", name, tiff(rgb, **said), mpp=mpp)
    not_square = tiff(rgb, resolution=(20000, 15000), resolutionunit="CENTIMETER")
    yield Case("um/px", "pixels that are not square", not_square, refused="must be square")
    for unit, um in (
        ("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("inch", 25400), ("px", None),
    ):  # fmt: skip
        mpp = None if um is None else MPP
        write = tiff(rgb, imagej=True, tile=False, resolution=((um or 1) / MPP,) * 2, metadata={"unit": unit})
        yield Case("um/px", f"ImageJ, {unit}", write, mpp=mpp)
    for name, described, mpp in (
        ("whole", "112x80 (48x32)", 0.5), ("cut by the scanner", "200x90 [10,5 112x80] (48x32)", 0.5),
        ("of GT450", "200x90 [10,5,112x80] (48x32)", 0.5), ("resized by libvips", "224x160 (48x32)", None),
        ("cropped by libvips", "500x400 [0,0 400x300] (48x32)", None), ("without a size", "Q=30", 0.5),
    ):  # fmt: skip
        yield Case("um/px", f"Aperio, {name}", aperio(rgb, described=described), mpp=mpp, rounding=LOSSY)


def _omes() -> Iterator[Case]:
    rgb = picture()
    for unit, um in OME_UNITS.items():
        yield Case("OME-TIFF", f"in {unit}", ome((rgb, MPP / um, unit, "main")))
    yield Case("OME-TIFF", "without um/px", ome((rgb, None, "", "main")), mpp=None)
    yield Case("OME-TIFF", "in pixels", ome((rgb, MPP, "pixel", "main")), mpp=None)
    yield Case("OME-TIFF", "planar (SYX)", ome((rgb, MPP, "µm", "main"), axes="SYX"))
    yield Case("OME-TIFF", "a page for each colour (CYX)", ome((rgb, MPP, "µm", "main"), axes="CYX"))
    yield Case("OME-TIFF", "pyramid in SubIFDs", ome((rgb, MPP, "µm", "main"), levels=(2, 4)))
    label, other = rgb[:10], rgb[:70, :100]
    beside = {"label": (label, 8.0, "µm", "label"), "scene 2": (np.ascontiguousarray(other), 0.5, "µm", "scene 2")}
    for name, image in beside.items():
        image = (np.ascontiguousarray(image[0]), *image[1:])
        yield Case("OME-TIFF", f"{name} first", ome(image, (rgb, MPP, "µm", "main")))
        yield Case("OME-TIFF", f"{name} last", ome((rgb, MPP, "µm", "main"), image))
    twin = np.ascontiguousarray(rgb[::-1])
    yield Case("OME-TIFF", "two of one size", ome((rgb, MPP, "µm", "a"), (twin, 0.25, "µm", "b")))
    yield Case("OME-TIFF", "resized by libvips", ome((rgb, MPP, "µm", "main"), resized=True), mpp=None)
    yield Case(
        "OME-TIFF", "its red in another file", ome((rgb, MPP, "µm", "main"), split=True), refused="lies in|missing"
    )
    for axes in ("ZYX", "TYX"):
        stack = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        yield Case(
            "OME-TIFF", f"a stack ({axes})", ome((stack, MPP, "µm", "main"), axes=axes), refused="wanted one plane"
        )


def _ngffs() -> Iterator[Case]:
    for version in ("0.4", "0.5"):
        for unit, um in UNITS.items():
            yield Case("OME-NGFF", f"{version}, {unit}", Ngff(version, scale=MPP / um, unit=unit, steps=(1,)))
        yield Case("OME-NGFF", f"{version}, no unit", Ngff(version, scale=MPP), mpp=None)
        yield Case("OME-NGFF", f"{version}, unit pixel", Ngff(version, scale=MPP, unit="pixel"), mpp=None)
        yield Case("OME-NGFF", f"{version}, no scale", Ngff(version, unit="micrometer"), mpp=None)
        said: dict[str, Any] = {"scale": MPP, "unit": "micrometer"}
        yield Case("OME-NGFF", f"{version}, scale of all", Ngff(version, **{**said, "scale": 1.0}, of_all=MPP))
        yield Case("OME-NGFF", f"{version}, one scale for all levels", Ngff(version, **said, relative=False))
        yield Case("OME-NGFF", f"{version}, coarsest first", Ngff(version, **said, backwards=True))
        for axes in ("yxc", "tczyx", "xyc", "cyx"):
            yield Case("OME-NGFF", f"{version}, {axes}", Ngff(version, **said, axes=axes))
        yield Case("OME-NGFF", f"{version}, steps of 4", Ngff(version, **said, steps=(1, 4)))
        yield Case("OME-NGFF", f"{version}, opacity", Ngff(version, **said, opaque=True))
        yield Case("OME-NGFF", f"{version}, bioformats2raw", Ngff(version, **said, nested=True))
        deep = Ngff(version, **said, dtype="u2")
        yield Case("OME-NGFF", f"{version}, 16-bit", deep, refused="holds uint16")
        yield Case(
            "OME-NGFF", f"{version}, colours said", Ngff(version, **said, colours=("FF0000", "00FF00", "0000FF"))
        )
        stains = Ngff(version, **said, colours=("0000FF", "00FF00", "FF0000"))
        yield Case("OME-NGFF", f"{version}, stains", stains, refused="wanted red, green and blue")


def _photos() -> Iterator[Case]:
    rgb = picture()
    grey = np.repeat(rgb[..., :1], 3, 2)
    for name, said, pixels, rounding in (
        ("a.png", {}, rgb, 0), ("grey.png", {"mode": "L"}, None, 0), ("a.jpg", {"quality": 95}, rgb, LOSSY),
        ("progressive.jpg", {"quality": 95, "progressive": True}, rgb, LOSSY),
        ("palette.png", {"mode": "P"}, None, 0), ("dpi.png", {"dpi": (50800, 50800)}, rgb, 0),
    ):  # fmt: skip
        expected = pixels if pixels is not None else shown(rgb, str(said["mode"]))
        yield Case("photo", name, photo(rgb, name, **said), mpp=None, pixels=expected, rounding=rounding)
    yield Case("photo", "grey.jpg", photo(grey[..., 0], "g.jpg", quality=95), mpp=None, pixels=grey, rounding=LOSSY)
    yield Case("photo", "16-bit.png", photo(rgb[..., 0].astype(np.uint16), "d.png"), mpp=None, refused="uint16")
    yield Case("photo", "CMYK.jpg", photo(rgb, "c.jpg", mode="CMYK"), mpp=None, refused="cannot be decoded")


def main() -> None:
    """Write every case, read it, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep what is written here")
    parser.add_argument("--dicom", type=Path, nargs="*", default=[], help="DICOM slides of the same picture")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    seen: list[tuple[Case, str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(cases()):
            folder = (options.folder or Path(scratch)) / f"{number:03d}"
            folder.mkdir(parents=True)
            seen.append((case, *examine(case, case.write(folder))))
    for path in options.dicom:
        case = Case("DICOM", path.name, lambda folder: folder, rounding=LOSSY)
        seen.append((case, *examine(case, path)))
    for group in dict.fromkeys(case.group for case, _, _ in seen):
        tally = Counter(verdict for case, verdict, _ in seen if case.group == group)
        print(
            f"{group:9} tried {tally.total():3}  " + "  ".join(f"{v} {tally[v]}" for v in ("right", "refused", "wrong"))
        )
    for case, verdict, what in seen:
        if verdict == "wrong" or (verdict == "refused") != bool(case.refused):
            print(f"{verdict.upper():8} {case.group}: {case.name}: {what}")
    total = Counter(verdict for _, verdict, _ in seen)
    print(f"tried={len(seen)} right={total['right']} refused={total['refused']} wrong={total['wrong']} goal=0")


if __name__ == "__main__":
    main()
