"""Small slides of known pixels, written in many ways: TIFF, Aperio, OME-TIFF, OME-NGFF, PNG and JPEG.

Each function returns one that writes the slide into a folder and returns its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..store.arrays import Pixels

WIDTH, HEIGHT = 112, 80
TILE = (32, 48)  # height, width
MPP = 0.5

Write = Callable[[Path], Path]
OmeImage = tuple[Any, float | None, str, str]  # pixels, size of one, its unit, name


@cache
def picture() -> Pixels:
    """(80, 112, 3) smooth colours, unlike in every channel and direction."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [128 + 100 * np.sin(x / a + y / b) for a, b in ((37, 53), (23, 91), (71, 29))]
    made = np.stack(waves, axis=-1).astype(np.uint8)
    made.flags.writeable = False
    return made


@dataclass(frozen=True)
class Pages:
    """Pages of a TIFF beside its level 0.

    Attributes
    ----------
    levels, where
        Each n-th pixel, as "pages", "SubIFDs" or "pages not called reduced".
    level_options
        Options of `tifffile` for the levels.
    mask, label
        Whether there is the mask of a coarser level, and the pixels of a label.
    sparse
        The first tile or strip of level 0 is left out.
    """

    levels: Sequence[int] = ()
    where: str = "pages"
    level_options: dict[str, Any] = field(default_factory=dict)
    mask: bool = False
    label: Any = None
    sparse: bool = False


def tiff(
    pixels: Any,
    *,
    tile: bool = True,
    pages: Pages | None = None,
    planes_first: bool = False,
    encode: Callable[[Any], bytes] | None = None,
    **options: Any,
) -> Write:
    """A TIFF at 0.5 um/px, unless the options of `tifffile` say otherwise.

    Parameters
    ----------
    encode
        Makes the bytes of a tile or strip, in place of tifffile's own codec for this compression.
    """
    pages = pages or Pages()
    said: dict[str, Any] = {"photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    said |= {"resolution": (1e4 / MPP, 1e4 / MPP)} | ({"tile": TILE} if tile else {"rowsperstrip": 32})
    if options.get("planarconfig") == "separate" and not planes_first:
        pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    file_options = {name: options.pop(name) for name in ("bigtiff", "byteorder", "imagej") if name in options}
    said |= options
    if "imagej" in file_options:
        said = {name: value for name, value in said.items() if name not in ("rowsperstrip", "resolutionunit")}

    def write(folder: Path) -> Path:
        path = folder / "slide.tif"
        with tifffile.TiffWriter(path, **file_options) as file:
            subifds = len(pages.levels) if pages.levels and pages.where == "SubIFDs" else None
            if encode is not None:
                file.write(map(encode, _parts(pixels, tile=tile)), shape=pixels.shape, dtype=np.uint8, **said)
            else:
                file.write(pixels, subifds=subifds, **said)
            kind = 0 if pages.where == "pages not called reduced" else 1
            for step in pages.levels:
                file.write(pixels[::step, ::step], subfiletype=kind, **(said | pages.level_options))
            if pages.mask:
                file.write(pixels[::2, ::2] * 0, subfiletype=1, **said)
            if pages.label is not None:
                file.write(pages.label, subfiletype=1, **said)
        if pages.mask:
            _call_mask(path)
        if pages.sparse:
            _leave_out_first(path)
        return path

    return write


def aperio(pixels: Any, *, described: str = f"{WIDTH}x{HEIGHT} (48x32)", **options: Any) -> Write:
    """A TIFF with an Aperio description that says 0.5 um/px, of a size that it names itself."""
    text = f"Aperio Image Library v11.2.1\r\n{described} JPEG/RGB Q=30|AppMag = 20|MPP = {MPP}"
    silent = {"resolution": (1, 1), "resolutionunit": "NONE", "description": text}
    return tiff(pixels, **{"compression": "jpeg", **silent, **options})


def ome(
    *images: OmeImage, axes: str = "YXS", levels: Sequence[int] = (), resized: bool = False, split: bool = False
) -> Write:
    """An OME-TIFF of several images.

    Parameters
    ----------
    resized
        Keep the description and halve the um/px and the size it was written for, as a program that resizes would.
    split
        The description says that the pixels lie in another file.
    """

    def write(folder: Path) -> Path:
        path = folder / "slide.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as file:
            for pixels, size, unit, name in images:
                _write_ome_image(file, pixels, size, unit, name, axes, levels)
        if resized or split:
            with tifffile.TiffFile(path) as read:
                text = read.ome_metadata or ""
            if split:
                folder.joinpath("other.ome.tif").write_bytes(path.read_bytes())
                uuid = '><UUID FileName="other.ome.tif">urn:uuid:11111111-1111-1111-1111-111111111111</UUID></TiffData>'
                text = text.replace("/></Pixels>", uuid + "</Pixels>")
            text = text.replace(f'SizeX="{WIDTH}"', f'SizeX="{2 * WIDTH}"') if resized else text
            tifffile.tiffcomment(path, text.encode())
        return path

    return write


def _write_ome_image(
    file: Any, pixels: Any, size: float | None, unit: str, name: str, axes: str, levels: Sequence[int]
) -> None:
    said: dict[str, Any] = {"axes": axes, "Name": name}
    if size is not None:
        said |= {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    options: dict[str, Any] = {"tile": TILE, "photometric": "rgb" if "S" in axes else "minisblack"}
    if axes in ("SYX", "CYX"):
        pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        options |= {"planarconfig": "separate"} if axes == "SYX" else {}
    file.write(pixels, metadata=said, subifds=len(levels) or None, **options)
    for step in levels:
        file.write(pixels[::step, ::step], subfiletype=1, **options)


@dataclass(frozen=True)
class Ngff:
    """An OME-Zarr image of version 0.4 (zarr 2) or 0.5 (zarr 3), written into a folder by a call.

    Attributes
    ----------
    scale, of_all
        Size of a pixel in each level's transformation, and in that of the whole multiscale.
    relative
        Coarser levels say their own scale; else all say the same.
    backwards
        The coarsest level is listed first.
    opaque
        A fourth channel of opacity.
    nested
        As bioformats2raw writes it: the image is the group "0".
    """

    version: str
    scale: float | None = None
    unit: str | None = None
    of_all: float | None = None
    relative: bool = True
    backwards: bool = False
    axes: str = "cyx"
    steps: Sequence[int] = (1, 2, 4)
    opaque: bool = False
    nested: bool = False
    dtype: str = "u1"
    colours: Sequence[str] = ()

    def __call__(self, folder: Path) -> Path:
        """Write it."""
        import zarr

        path, is_old = folder / "slide.ome.zarr", self.version == "0.4"
        root = zarr.open_group(path, mode="w", zarr_format=2 if is_old else 3)
        group = root.create_group("0") if self.nested else root
        for number, step in enumerate(self.steps):
            values = picture()[::step, ::step]
            if self.opaque:
                values = np.concatenate([values, np.full((*values.shape[:2], 1), 255, np.uint8)], 2)
            _write_array(group, str(number), values.astype(self.dtype), self.axes)
        said: dict[str, Any] = {"multiscales": [self._multiscale()]}
        if self.colours:
            said["omero"] = {"channels": [{"color": colour, "label": f"stain {colour}"} for colour in self.colours]}
        group.attrs.update(said if is_old else {"ome": {"version": self.version, **said}})
        if self.nested:
            layout = {"bioformats2raw.layout": 3}
            root.attrs.update(layout if is_old else {"ome": {"version": self.version, **layout}})
        return path

    def _multiscale(self) -> dict[str, Any]:
        sets: list[dict[str, Any]] = []
        for number, step in enumerate(self.steps):
            sets.append({"path": str(number)})
            if self.scale is not None:
                size = self.scale * (step if self.relative else 1)
                sets[-1]["coordinateTransformations"] = [_scaling(self.axes, size)]
        said: dict[str, Any] = {"axes": [_axis(name, self.unit) for name in self.axes], "version": self.version}
        if self.of_all is not None:
            said["coordinateTransformations"] = [_scaling(self.axes, self.of_all)]
        return said | {"datasets": sets[::-1] if self.backwards else sets}


def _axis(name: str, unit: str | None) -> dict[str, str]:
    kind = {"c": "channel", "t": "time"}.get(name, "space")
    return {"name": name, "type": kind} | ({"unit": unit} if unit and kind == "space" else {})


def _scaling(axes: str, size: float) -> dict[str, Any]:
    return {"type": "scale", "scale": [size if name in "xy" else 1.0 for name in axes]}


def _write_array(group: Any, name: str, values: Any, axes: str) -> None:
    """`values` (h, w, c) as an array along `axes`."""
    there = [axis for axis in axes if axis in "yxc"]
    made = values.transpose(["yxc".index(axis) for axis in there])
    for at, axis in enumerate(axes):
        if axis not in "yxc":
            made = np.expand_dims(made, at)
    chunks = tuple(min(side, 48) for side in made.shape)
    array = group.create_array(name, shape=made.shape, chunks=chunks, dtype=made.dtype)
    array[...] = made


def photo(pixels: Any, name: str, *, mode: str | None = None, **options: Any) -> Write:
    """A PNG or JPEG, turned into a mode of PIL first where one is given."""
    from PIL import Image

    def write(folder: Path) -> Path:
        image = Image.fromarray(np.asarray(pixels))
        (image.convert(mode) if mode else image).save(folder / name, **options)
        return folder / name

    return write


def shown(pixels: Pixels, mode: str) -> Pixels:
    """What a picture looks like after PIL turned it into a mode."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert(mode).convert("RGB"))


def to_ycbcr(pixels: Pixels) -> Pixels:
    """Full-range YCbCr (h, w, 3) of RGB."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("YCbCr"))


def from_ycbcr(pixels: Pixels) -> Pixels:
    """RGB (h, w, 3) of full-range YCbCr, by the formula of ITU-T T.871."""
    y, cb, cr = np.moveaxis(pixels.astype(float) - [0, 128, 128], -1, 0)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], -1)
    return np.asarray(np.rint(rgb).clip(0, 255), dtype=np.uint8)


def j2k_as_is(part: Pixels) -> bytes:
    """A JPEG 2000 codestream whose components are coded as they are."""
    import imagecodecs

    return bytes(imagecodecs.jpeg2k_encode(part, level=0, codecformat="J2K", mct=False, reversible=True))


def jpeg(part: Pixels) -> bytes:
    """A JPEG of high quality."""
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(part, level=95))


def _parts(pixels: Pixels, *, tile: bool) -> Iterator[Pixels]:
    """Tiles, filled up with black at the border, or strips."""
    rows, columns = TILE if tile else (32, WIDTH)
    for y in range(0, HEIGHT, rows):
        for x in range(0, WIDTH, columns):
            part = pixels[y : y + rows, x : x + columns]
            if tile:
                room = ((0, rows - part.shape[0]), (0, columns - part.shape[1]), (0, 0))[: part.ndim]
                part = np.pad(part, room)
            yield np.ascontiguousarray(part)


def _call_mask(path: Path) -> None:
    """Call the second page the mask of a coarser level, as GDAL does."""
    with tifffile.TiffFile(path, mode="r+") as file:
        page: Any = file.pages[1]
        page.tags["NewSubfileType"].overwrite(5)


def _leave_out_first(path: Path) -> None:
    """Say that the first tile or strip has no bytes."""
    with tifffile.TiffFile(path, mode="r+") as file:
        page: Any = file.pages[0]
        name = "TileByteCounts" if page.is_tiled else "StripByteCounts"
        counts = page.tags[name]
        counts.overwrite((0, *counts.value[1:]))
