"""Pictures of patches for people: from the slide's image where it is at hand, else from the stored thumbnail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..featurize.slides.slide import Slide
    from ..store import Store
    from ..store.arrays import Floats, Pixels
    from ..store.files.slide import SlideRecord

SIDE_PX = 224

NO_PICTURE = 235
"""Grey of a patch of which there is no picture at all."""


@dataclass(frozen=True)
class PatchPicture:
    """One patch to look at.

    Attributes
    ----------
    pixels
        uint8 (224, 224, 3).
    origin
        "slide", "thumbnail" or "none".
    """

    pixels: Pixels
    origin: str


def patch_pictures(
    store: Store, wanted: Sequence[tuple[str, int]], *, key: str, patches: str
) -> tuple[list[PatchPicture], list[str]]:
    """Pictures of patches (slide, row), as wide as the view of a feature key, and why some are no good ones."""
    pictures: dict[tuple[str, int], PatchPicture] = {}
    notes: list[str] = []
    for slide_id in dict.fromkeys(slide_id for slide_id, _ in wanted):
        record = store.slide(slide_id)
        fov_um = store.header(key, slide_id, patches=patches).fov_um
        centers_px = store.patches(slide_id, patches=patches).center_px
        rows = [row for name, row in wanted if name == slide_id]
        with _image(store, record) as (image, why_not):
            for row in rows:
                if image is not None:
                    pixels = _from_slide(image, centers_px[row], record.mpp, fov_um)
                    pictures[slide_id, row] = PatchPicture(pixels, "slide")
                else:
                    pictures[slide_id, row] = _from_thumbnail(store, record, centers_px[row], fov_um)
        if why_not:
            origin = pictures[slide_id, rows[0]].origin
            instead = "cut from the stored thumbnail" if origin == "thumbnail" else "there is no thumbnail either"
            notes.append(f"{slide_id}: {why_not}; {instead}")
    return [pictures[one] for one in wanted], notes


@contextmanager
def _image(store: Store, record: SlideRecord) -> Iterator[tuple[Slide | None, str]]:
    """The image of a slide if it is the one that was featurized, else None and why."""
    from ..featurize.ingest import source_digest
    from ..featurize.slides.open import open_slide
    from ..store.errors import ScaleError, SlideError

    path, why = Path(record.source), ""
    slide: Slide | None = None
    try:
        if not path.is_absolute() and not path.is_file():
            path = store.path.parent / path
        if not path.is_file():
            why = f"its image {record.source!r} is not at hand"
        elif source_digest(path) != record.source_digest:
            why = f"{record.source} is not the image that the features were made from"
        else:
            slide = open_slide(path)
            if (slide.width, slide.height) != (record.width_px, record.height_px):
                slide.close()
                slide, why = None, f"{record.source} is not of the size that the store knows"
    except (SlideError, ScaleError, OSError) as error:
        why = f"its image cannot be read ({error})"
    try:
        yield slide, why
    finally:
        if slide is not None:
            slide.close()


def _from_slide(slide: Slide, center_px: Floats, mpp: float, fov_um: float) -> Pixels:
    """One patch as the backbone's view frames it, at 224 px."""
    from ..featurize.patches.field import plan_field, read_patch
    from ..featurize.patches.views import View

    view = View("sheet", fov_um=fov_um, mpp=fov_um / SIDE_PX)
    return read_patch(slide, plan_field(slide, view, mpp=mpp), center_px)


def _from_thumbnail(store: Store, record: SlideRecord, center_px: np.ndarray, fov_um: float) -> PatchPicture:
    """The same field of the thumbnail, enlarged; white outside of the slide, grey where there is no thumbnail."""
    import numpy as np
    from PIL import Image

    from ..store.errors import StoreError
    from ..store.files.schema import slide_path
    from ..store.files.slide import read_thumbnail

    try:
        thumbnail = read_thumbnail(slide_path(store.path, record.slide_id))
    except StoreError:
        return PatchPicture(np.full((SIDE_PX, SIDE_PX, 3), NO_PICTURE, dtype=np.uint8), "none")
    factor = np.array([record.width_px / thumbnail.shape[1], record.height_px / thumbnail.shape[0]])
    half = fov_um / record.mpp / 2
    low, high = (np.asarray(center_px) - half) / factor, (np.asarray(center_px) + half) / factor
    reach = int(np.ceil((high - low).max())) + 2
    padded = np.pad(thumbnail, ((reach, reach), (reach, reach), (0, 0)), constant_values=255)
    box = np.clip(np.concatenate([low, high]) + reach, 0, np.tile(padded.shape[1::-1], 2))
    picture = Image.fromarray(padded).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC, box=tuple(box.tolist()))
    return PatchPicture(np.asarray(picture), "thumbnail")
