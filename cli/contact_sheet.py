"""A contact sheet: a query and its look-alikes side by side, as one HTML page or one picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.naming import UNKNOWN_PATIENT
from .index_words import how_measured
from .patch_pictures import SIDE_PX, PatchPicture, patch_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..store import Store
    from ..store.search.search import Hit, SearchIndex

SHEETS = (".html", ".png", ".jpg", ".jpeg")

COLUMNS = 6
MARGIN_PX, LINE_PX, FONT_PX, TITLE_PX = 12, 17, 13, 18
INK, SOFT, QUERY, OWN = (29, 37, 48), (86, 98, 115), (0, 114, 178), (179, 71, 0)
BORDER_PX = 4
WRAP = 190
"""Characters to a line of notes in a picture."""

MOST = 119
"""Look-alikes that are drawn: twenty rows with the query; a JPEG has at most 65,535 pixels a side."""


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet and what stands under it; `colour` frames it."""

    picture: PatchPicture
    lines: tuple[str, ...]
    colour: tuple[int, int, int] | None = None


def write_contact_sheet(
    path: Path, store: Store, index: SearchIndex, found: Sequence[Hit], *, query: Mapping[str, Any], exact: bool = False
) -> None:
    """Draw a query and its look-alikes.

    Parameters
    ----------
    path
        The file; its suffix says the format, one of `SHEETS`.
    query
        `slide_id`, `patch`, `key`, `patches`, `exclude` and `k` of what was asked.
    exact
        Whether every patch was looked at.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    from ..store.files.atomic import atomic_path
    from ..store.search.search import search_warnings

    drawn = found[:MOST]
    wanted = [(query["slide_id"], query["patch"]), *((hit.slide_id, hit.patch) for hit in drawn)]
    pictures, notes = patch_pictures(store, wanted, key=query["key"], patches=query["patches"])
    tiles = _tiles(index, drawn, pictures, query)
    fov_um = store.header(query["key"], query["slide_id"], patches=query["patches"]).fov_um
    title = f"Look-alikes of {query['slide_id']}:{query['patch']} by {query['key']}"
    more = [f"Drawn are the first {MOST}."] if len(found) > MOST else []
    warned = search_warnings(index, query["slide_id"], exclude=query["exclude"])
    words = [_how(index, query, len(found), fov_um, exact=exact), *more, *warned, *notes]
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".html":
            temporary.write_text(sheet_html(title, words, tiles), encoding="utf-8")
        else:
            kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
            sheet_image(title, words, tiles).save(temporary, format=kind, quality=92)


def _tiles(
    index: SearchIndex, found: Sequence[Hit], pictures: Sequence[PatchPicture], query: Mapping[str, Any]
) -> list[Tile]:
    record = index.record
    number = record.slide_ids.index(query["slide_id"])
    patient = record.patient_ids[number]
    x_um, y_um = index.center_um[index.rows_of(number)[query["patch"]]]
    first = ("query", f"{query['slide_id']}:{query['patch']}", _person(patient), f"x {x_um:.0f}  y {y_um:.0f} um")
    tiles = [Tile(pictures[0], (*first, *_origin(pictures[0])), QUERY)]
    for hit, picture in zip(found, pictures[1:], strict=True):
        own = (
            " (own slide)"
            if hit.slide_id == query["slide_id"]
            else " (own patient)"
            if hit.patient_id == patient
            else ""
        )
        lines = (
            f"{hit.rank}   distance {hit.distance:.4f}",
            f"{hit.slide_id}:{hit.patch}",
            f"{_person(hit.patient_id)}{own}",
            f"x {hit.x_um:.0f}  y {hit.y_um:.0f} um",
        )
        tiles.append(Tile(picture, (*lines, *_origin(picture)), OWN if own else None))
    return tiles


def _person(patient_id: str) -> str:
    """A patient as a caption names it; one that is not known says so itself."""
    return patient_id if patient_id.startswith(UNKNOWN_PATIENT) else f"patient {patient_id}"


def _origin(picture: PatchPicture) -> tuple[str, ...]:
    return {"slide": (), "thumbnail": ("from the thumbnail",)}.get(picture.origin, ("no picture",))


def _how(index: SearchIndex, query: Mapping[str, Any], count: int, fov_um: float, *, exact: bool) -> str:
    """One sentence on what was searched."""
    record = index.record
    left_out = f", the query's own {query['exclude']} left out" if query["exclude"] else ""
    return (
        f"{count} of {query['k']} look-alikes among {len(index)} patches of {len(record.slide_ids)} slides{left_out}; "
        f"{how_measured(record, exclude=query['exclude'], exact=exact)}. Every picture is {fov_um:g} um "
        "wide; blue frames the query, orange what is of its own slide or patient."
    )


def sheet_html(title: str, notes: Sequence[str], tiles: Sequence[Tile]) -> str:
    """The sheet as one page that loads and runs nothing."""
    from ..heads.report.page import escaped, page, paragraph

    figures = []
    for tile in tiles:
        frame = f"{BORDER_PX}px solid rgb{tile.colour}" if tile.colour else f"{BORDER_PX}px solid transparent"
        words = "<br>".join(escaped(line) for line in tile.lines)
        figures.append(
            f'<figure style="margin:0;width:{SIDE_PX + 2 * BORDER_PX}px">'
            f'<img src="{_data_uri(tile.picture)}" alt="{escaped(tile.lines[1])}" width="{SIDE_PX}" height="{SIDE_PX}" '
            f'style="border:{frame};display:block">'
            f'<figcaption style="font-size:0.85rem;overflow-wrap:anywhere">{words}</figcaption></figure>'
        )
    grid = f'<div style="display:flex;flex-wrap:wrap;gap:14px">{"".join(figures)}</div>'
    words = "".join(paragraph(note) for note in notes)
    return page(title, f"<h1>{escaped(title)}</h1>\n<section>{words}{grid}</section>")


def _data_uri(picture: PatchPicture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def sheet_image(title: str, notes: Sequence[str], tiles: Sequence[Tile]) -> Image:
    """The sheet as one picture."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    columns = min(COLUMNS, max(3, len(tiles)))
    cell_px = (SIDE_PX + 2 * MARGIN_PX, SIDE_PX + MARGIN_PX + LINE_PX * max(len(tile.lines) for tile in tiles))
    width_px = columns * cell_px[0] + 3 * MARGIN_PX
    small, large = ImageFont.load_default(FONT_PX), ImageFont.load_default(TITLE_PX)
    wrap = WRAP * columns // COLUMNS
    lines = [line for note in notes for line in textwrap.wrap(note, wrap)]
    top = 2 * MARGIN_PX + TITLE_PX + LINE_PX * len(lines) + MARGIN_PX
    sheet = Image.new("RGB", (width_px, top + -(-len(tiles) // columns) * (cell_px[1] + MARGIN_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * MARGIN_PX, MARGIN_PX), _fitting(draw, title, large, width_px), fill=INK, font=large)
    for number, line in enumerate(lines):
        place = (2 * MARGIN_PX, 2 * MARGIN_PX + TITLE_PX + LINE_PX * number)
        draw.text(place, _fitting(draw, line, small, width_px), fill=SOFT, font=small)
    for number, tile in enumerate(tiles):
        x = 2 * MARGIN_PX + (number % columns) * cell_px[0]
        y = top + (number // columns) * (cell_px[1] + MARGIN_PX)
        if tile.colour:
            edge = BORDER_PX
            draw.rectangle((x - edge, y - edge, x + SIDE_PX + edge - 1, y + SIDE_PX + edge - 1), fill=tile.colour)
        sheet.paste(Image.fromarray(tile.picture.pixels), (x, y))
        for row, line in enumerate(tile.lines):
            place = (x, y + SIDE_PX + BORDER_PX + LINE_PX * row)
            draw.text(place, _fitting(draw, line, small, SIDE_PX), fill=INK if row < 2 else SOFT, font=small)
    return sheet


def _fitting(draw: Any, text: str, font: Any, width_px: int) -> str:
    """A text cut to a width."""
    if draw.textlength(text, font=font) <= width_px:
        return text
    while text and draw.textlength(f"{text}...", font=font) > width_px:
        text = text[:-1]
    return f"{text}..."
