"""One picture per slide on which a reviewer sees what was taken for tissue, and where it was looked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...store.arrays import Bools, Floats, Pixels
from ...store.errors import StoreError
from ...store.files.atomic import atomic_path
from ...store.naming import SPOTS

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

PANEL_PX = 640
"""Longer side of the slide in each panel."""

MARGIN_PX, HEADER_PX, TITLE_PX, FOOTER_PX = 20, 44, 28, 40
MAX_COLUMNS = 4

INK, PALE = (32, 33, 36), (95, 99, 104)
TISSUE_LINE = (0, 200, 83)
FIELD_LINE = (255, 193, 7)
WIDE_FIELD_PX = 10
"""Circles, and squares at least this wide in a panel, have a line of a whole pixel; smaller squares touch one another,
and have one of half a pixel."""

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def draw_qc(
    thumbnail: Pixels,
    tissue: Bools,
    *,
    size_px: tuple[int, int],
    sets: Mapping[str, tuple[Floats, float]],
    mpp: float,
    slide_id: str = "",
) -> Pixels:
    """Panels side by side, all at one scale: the slide, its tissue, and each patch set over it.

    Parameters
    ----------
    thumbnail
        (h, w, 3) picture of the whole slide.
    tissue
        (h', w') mask of the whole slide; need not have the thumbnail's shape.
    size_px
        Width and height of the slide, level 0.
    sets
        By name: centres (n, 2) in level-0 pixels, x then y, and the side of their field in level-0 pixels. Fields are
        drawn as squares of their true size, those of the set `spots` as circles of that diameter; the slide keeps its
        colours inside them and is greyed elsewhere.
    mpp
        um per level-0 pixel.
    slide_id
        For the caption.

    Returns
    -------
    Pixels
        (height, width, 3).
    """
    from PIL import Image

    scale = PANEL_PX / max(size_px)  # panel px per level-0 px
    width, height = (max(1, round(side * scale)) for side in size_px)
    slide = Image.fromarray(thumbnail).resize((width, height), Image.Resampling.LANCZOS)
    panels = [("slide", slide), (f"tissue: {tissue.mean():.1%} of the area", _outlined(slide, tissue))]
    for name, (center_px, side_px) in sets.items():
        title = f"{name}: {len(center_px):,} patches of {side_px * mpp:.4g} um"
        panels.append((title, _with_fields(slide, center_px * scale, side_px * scale, round_fields=name == SPOTS)))
    caption = f"{mpp:.4g} um/px, {size_px[0]:,} x {size_px[1]:,} px"
    return np.asarray(_composed(panels, slide_id=slide_id, caption=caption, um_per_px=mpp / scale))


def write_qc(path: Path, picture: Pixels) -> None:
    """Write a picture as PNG or JPEG, by the suffix of `path`.

    Raises
    ------
    StoreError
        If the suffix is neither, or the file cannot be written.
    """
    from PIL import Image

    image_format = SUFFIXES.get(path.suffix.lower())
    if image_format is None:
        msg = f"{path} cannot hold a picture: give it the suffix {', '.join(SUFFIXES)}"
        raise StoreError(msg)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format=image_format, quality=88)


def _outlined(slide: Image.Image, tissue: Bools) -> Image.Image:
    """The slide, greyed beside the tissue, with a line just outside it."""
    from PIL import Image
    from scipy import ndimage

    mask = np.asarray(Image.fromarray(tissue).resize(slide.size, Image.Resampling.NEAREST), dtype=np.bool_)
    picture = np.where(mask[..., None], np.asarray(slide), np.asarray(_greyed(slide)))
    picture[ndimage.maximum_filter(mask, size=5) & ~mask] = TISSUE_LINE
    return Image.fromarray(picture)


def _with_fields(slide: Image.Image, center: Floats, side: float, *, round_fields: bool) -> Image.Image:
    """The slide, greyed beside the fields, with a line around each; all in panel pixels."""
    from PIL import Image, ImageDraw

    # Drawn at twice the size and averaged, so that edges are smooth and lines can be half a pixel thin.
    inside, line = (Image.new("L", (2 * slide.width, 2 * slide.height)) for _ in range(2))
    canvases = [(ImageDraw.Draw(inside), {"fill": 255}), (ImageDraw.Draw(line), {"outline": 255})]
    thickness = 2 if round_fields or side >= WIDE_FIELD_PX else 1
    for x, y in center.tolist():
        left, top = 2 * (x - side / 2), 2 * (y - side / 2)
        box = (left, top, left + max(2 * side - 1, 0), top + max(2 * side - 1, 0))
        for draw, paint in canvases:
            (draw.ellipse if round_fields else draw.rectangle)(box, width=thickness, **paint)
    inside, line = (layer.reduce(2) for layer in (inside, line))
    picture = Image.composite(slide, _greyed(slide), inside)
    picture.paste(FIELD_LINE, mask=line)
    return picture


def _greyed(slide: Image.Image) -> Image.Image:
    """The slide at half its contrast, so that what is not greyed stands out."""
    return slide.point(lambda value: value // 2 + 56)


def _composed(panels: list[tuple[str, Image.Image]], *, slide_id: str, caption: str, um_per_px: float) -> Image.Image:
    """Panels in rows under one header, with one scale bar for all."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = panels[0][1].size
    rows = math.ceil(len(panels) / MAX_COLUMNS)
    columns = math.ceil(len(panels) / rows)
    step_x, step_y = max(width, 320) + MARGIN_PX, height + TITLE_PX + MARGIN_PX
    page = Image.new("RGB", (columns * step_x + MARGIN_PX, HEADER_PX + rows * step_y + FOOTER_PX), "white")
    draw = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(22), ImageFont.load_default(16)
    draw.text((MARGIN_PX, 14), slide_id, fill=INK, font=large)
    beside = MARGIN_PX + (draw.textlength(slide_id, large) + 16 if slide_id else 0)
    draw.text((beside, 19), caption, fill=PALE, font=small)
    for i, (title, panel) in enumerate(panels):
        x, y = MARGIN_PX + i % columns * step_x, HEADER_PX + i // columns * step_y
        draw.text((x, y + 4), title, fill=INK, font=small)
        page.paste(panel, (x, y + TITLE_PX))
        draw.rectangle((x - 1, y + TITLE_PX - 1, x + width, y + TITLE_PX + height), outline=(218, 220, 224))
    _scale_bar(draw, (MARGIN_PX, HEADER_PX + rows * step_y), widest_px=width / 3, um_per_px=um_per_px)
    return page


def _scale_bar(draw: ImageDraw.ImageDraw, at: tuple[int, int], *, widest_px: float, um_per_px: float) -> None:
    """The longest bar of 1, 2 or 5 times a power of ten that is no longer than `widest_px`, with its length in um."""
    from PIL import ImageFont

    widest_um = widest_px * um_per_px
    power = 10.0 ** math.floor(math.log10(widest_um))
    length_um = max(step * power for step in (1, 2, 5) if step * power <= widest_um)
    x, y = at
    length_px = round(length_um / um_per_px)
    draw.rectangle((x, y + 6, x + length_px - 1, y + 11), fill=INK)
    draw.text((x + length_px + 10, y), f"{length_um:,.10g} um", fill=INK, font=ImageFont.load_default(16))
