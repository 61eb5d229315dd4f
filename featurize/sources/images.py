"""The image of a slide among the files that lie around its counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...store.errors import CohortError
from .access import reading
from .slides import image_files, slide_name

IMAGE_FOLDERS = ("", "images", "image", "wsis")
"""Where images lie, relative to the counts: beside them, or in a folder of that name."""


def image_named(folder: Path, name: str, *, wanted: str) -> Path:
    """The image `<name>.<ending>` in a folder or in one of its `IMAGE_FOLDERS`.

    Parameters
    ----------
    wanted
        What needs it, for the error.

    Raises
    ------
    CohortError
        If there is none, or more than one.
    """
    found = [one for one in images_below(folder) if slide_name(one) == name]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(str(one.relative_to(folder)) for one in found) or "none"
    msg = (
        f"{wanted} needs the full-resolution image {name}.<tif, svs, ...> in {folder} or its folder images, found "
        f"{listed}: add it, move the others away, or name it in a manifest"
    )
    raise CohortError(msg)


def images_below(folder: Path, within: Sequence[str] = IMAGE_FOLDERS) -> list[Path]:
    """Images in a folder and in those of its folders that are kept for images."""
    found: list[Path] = []
    with reading(folder):
        for name in within:
            if (folder / name).is_dir():
                found += image_files(folder / name)
    return found
