"""Plain slides: an image, or a folder of them, without spots."""

from __future__ import annotations

from pathlib import Path

from ...store.errors import CohortError
from ..cohort import LeftOut, Refused, Sample, unknown_patient
from .images import IMAGE_SUFFIXES, SlideImage, list_images


def slide_samples(source: Path) -> tuple[Sample | Refused | LeftOut, ...]:
    """Every image directly in a folder, by name, or the one image given; and what else the folder holds.

    The slide id is the file name without its ending, of a DICOM slide that of its folder. Patients are unknown. Images
    that differ in their ending alone are refused: which of them is meant is not guessed.

    Raises
    ------
    CohortError
        If the folder holds no image.
    """
    listing = list_images(source)
    if not listing.images:
        msg = (
            f"{source} holds no image directly in it ({', '.join(sorted(IMAGE_SUFFIXES))}, DICOM, OME-Zarr): give the "
            f"folder that does{listing.not_read()}"
        )
        raise CohortError(msg)
    slides = {one.slide_id: listing.unclear(one.slide_id) or _sample(one) for one in listing.images}
    return (*slides.values(), *listing.left_out)


def _sample(image: SlideImage) -> Sample:
    return Sample(image.slide_id, unknown_patient(image.slide_id), image.path)
