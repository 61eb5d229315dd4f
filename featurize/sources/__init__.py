"""Where cohorts come from: one file a source, each a function from a path to samples and what had to be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...store.errors import CohortError
from ..cohort import Refused, Sample
from .manifest import MANIFEST_NAMES, MANIFEST_SUFFIXES, manifest_samples
from .slides import image_files, slide_samples
from .st import st_root, st_samples

SOURCES: dict[str, Callable[[Path], tuple[Sample | Refused, ...]]] = {
    "manifest": manifest_samples,
    "st": st_samples,
    "slides": slide_samples,
}
"""Format -> its reader."""


def detect(source: Path) -> tuple[str, str]:
    """Choose the format of an existing path.

    Returns
    -------
    tuple
        A key of `SOURCES`, and why it was chosen.

    Raises
    ------
    CohortError
        If a folder holds nothing that is known.
    """
    if source.is_file():
        if source.suffix.lower() in MANIFEST_SUFFIXES:
            return "manifest", f"{source.name} is a table"
        return "slides", f"{source.name} is a single file and no table"
    # A manifest was written on purpose, for this folder: it goes before what lies around it.
    for name in MANIFEST_NAMES:
        if (source / name).is_file():
            return "manifest", f"the folder holds {name}"
    root = st_root(source)
    if root is not None:
        return "st", f"the folder holds {(root / 'ST-imgs').relative_to(source)}"
    images = image_files(source)
    if images:
        return "slides", f"the folder holds {len(images)} image(s) and neither manifest nor ST-imgs"
    msg = (
        f"{source} holds no {' or '.join(MANIFEST_NAMES)}, no ST-imgs or data/ST-imgs, and no image directly in it: "
        "give the folder that does, a manifest, or one image"
    )
    raise CohortError(msg)
