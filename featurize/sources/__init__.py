"""Where cohorts come from: one file a source, each a function from a path to samples and what had to be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...store.errors import CohortError
from ..cohort import LeftOut, Refused, Sample
from ..precut import is_precut
from .anndata_slides import h5ad_files, h5ad_samples
from .hest import hest_patch_samples, hest_samples, hest_why
from .images import list_images
from .manifest import MANIFEST_NAMES, MANIFEST_SUFFIXES, manifest_samples
from .slides import slide_samples
from .spaceranger import spaceranger_runs, spaceranger_samples, spaceranger_why
from .spatialdata_ import is_spatialdata, spatialdata_folders, spatialdata_samples
from .st import st_root, st_samples

SOURCES: dict[str, Callable[[Path], tuple[Sample | Refused | LeftOut, ...]]] = {
    "manifest": manifest_samples,
    "st": st_samples,
    "hest": hest_samples,
    "hest-patches": hest_patch_samples,
    "spaceranger": spaceranger_samples,
    "spatialdata": spatialdata_samples,
    "h5ad": h5ad_samples,
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
    found = _detect_file(source) if source.is_file() else _detect_folder(source)
    if found is not None:
        return found
    msg = (
        f"{source} holds no {' or '.join(MANIFEST_NAMES)}, no ST-imgs or data/ST-imgs, nothing of HEST-1k (st, wsis, "
        "patches), Space Ranger (spatial, outs, binned_outputs) or SpatialData (.zarr), no .h5ad, and no image "
        f"directly in it: give the folder that does, a manifest, or one image{_not_read(source)}"
    )
    raise CohortError(msg)


def _not_read(source: Path) -> str:
    return list_images(source).not_read() if source.is_dir() else ""


def _detect_file(source: Path) -> tuple[str, str]:
    suffix = source.suffix.lower()
    if suffix in MANIFEST_SUFFIXES:
        return "manifest", f"{source.name} is a table"
    if suffix == ".h5ad":
        return "h5ad", f"{source.name} is an AnnData"
    if suffix == ".h5" and is_precut(source):
        return "hest-patches", f"{source.name} holds pixels of patches"
    return "slides", f"{source.name} is a single file and no table"


def _detect_folder(source: Path) -> tuple[str, str] | None:
    """The most particular layout first: what holds one of them may hold images and AnnData files too."""
    # A manifest was written on purpose, for this folder: it goes before what lies around it.
    for name in MANIFEST_NAMES:
        if (source / name).is_file():
            return "manifest", f"the folder holds {name}"
    root = st_root(source)
    if root is not None:
        return "st", f"the folder holds {(root / 'ST-imgs').relative_to(source)}"
    if is_spatialdata(source):
        return "spatialdata", f"{source.name} is a SpatialData"
    hest = hest_why(source)
    if hest is not None:
        return hest
    runs = spaceranger_runs(source)
    if runs:
        return "spaceranger", spaceranger_why(source, runs)
    zarrs = spatialdata_folders(source)
    if zarrs:
        return "spatialdata", f"the folder holds {len(zarrs)} SpatialData ({zarrs[0].name}, ...)"
    counted = h5ad_files(source)
    if counted:
        return "h5ad", f"the folder holds {len(counted)} .h5ad file(s) and no manifest"
    images = list_images(source).images
    if len(images) == 1 and images[0].path == source:
        return "slides", f"{source.name} is one slide"
    if images:
        return "slides", f"the folder holds {len(images)} image(s) and neither manifest nor ST-imgs"
    return None
