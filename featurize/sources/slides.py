"""Plain slides: an image, or a folder of them, without spots."""

from __future__ import annotations

from pathlib import Path

from ...store.errors import CohortError
from ..cohort import Sample, unknown_patient

SCANNER_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi")
IMAGE_SUFFIXES = (*SCANNER_SUFFIXES, ".tif", ".tiff", ".jpg", ".jpeg", ".png")
"""What counts as an image in a folder. A single file is tried whatever its ending: a DICOM slide is given so, because
its many files are one slide."""


def slide_samples(source: Path) -> tuple[Sample, ...]:
    """Every image directly in a folder, by name; or the one image given.

    The slide id is the file name without its ending. Patients are unknown.

    Raises
    ------
    CohortError
        If the folder holds no image.
    """
    images = [source] if source.is_file() else image_files(source)
    if not images:
        msg = f"{source} holds no image directly in it ({', '.join(sorted(IMAGE_SUFFIXES))}): give the folder that does"
        raise CohortError(msg)
    return tuple(Sample(name := slide_name(image), unknown_patient(name), image) for image in images)


def image_files(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name, hidden ones left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def without_image_suffix(name: str) -> str:
    """A slide's name as tables have it, without the ending of its image where it is written with one."""
    path = Path(name)
    return slide_name(path) if path.suffix.lower() in (*IMAGE_SUFFIXES, ".dcm", ".zarr") else name


def slide_name(image: Path) -> str:
    """File name without its ending, `.ome.tif` counting as one."""
    stem = image.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem
