"""A cohort from a path: its source is recognised, read, and what cannot be used is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...store.errors import CohortError, InvalidNameError, ScaleError
from ...store.files.schema import tool_output
from ...store.naming import check_name
from ...store.scale import MAX_DISAGREEMENT
from ..slides.patches_h5 import is_precut
from .h5ad import h5ad_files, h5ad_samples
from .hest import hest_patch_samples, hest_samples, hest_why
from .images import list_images, slide_samples
from .manifest import MANIFEST_NAMES, MANIFEST_SUFFIXES, manifest_samples
from .sample import Cohort, LeftOut, Refused, Sample
from .spaceranger import spaceranger_runs, spaceranger_samples, spaceranger_why
from .spatialdata_ import is_spatialdata, spatialdata_folders, spatialdata_samples
from .st import st_root, st_samples

_OUTPUT_SUFFIXES = (".h5", ".pt", ".npz", ".json")
"""Endings of single files that are no image and that other tools write."""


def load_cohort(source: Path, *, format: str = "auto", pitch_um: float | None = None) -> Cohort:
    """Describe the slides of a source, in a fixed order.

    Images and counts are not opened yet, so that a damaged one costs only its own slide. A slide whose id cannot become
    a file name, or that lacks its image, is refused alone, as long as there are others.

    Parameters
    ----------
    source
        A folder, manifest or image.
    format
        A key of `tissuary.featurize.sources.SOURCES`, or "auto".
    pitch_um
        Spot pitch of every slide that has spots; one that the source declares must agree with it.

    Raises
    ------
    CohortError
        If there is nothing at `source` that can be read, a slide id occurs twice, or every slide is refused.
    InvalidNameError
        If every slide is refused, the first because its id cannot become a file name.
    ScaleError
        If a pitch that the source declares and `pitch_um` contradict one another.
    """
    from .images import reading

    with reading(source):
        everything, chosen = _find(source, format)
    found = [one for one in everything if not isinstance(one, LeftOut)]
    left_out = tuple((one.name, one.reason) for one in everything if isinstance(one, LeftOut))
    repeated = [name for name, times in Counter(one.slide_id for one in found).items() if times > 1]
    if repeated:
        msg = f"{source}: slide id {', '.join(repeated)} occurs more than once: rename, so that each slide has its own"
        raise CohortError(msg)
    named = [_named(one) for one in found]
    samples = tuple(_with_pitch(one, pitch_um) for one in named if isinstance(one, Sample))
    refused = [one for one in named if isinstance(one, Refused)]
    if not samples:
        first = refused[0].cause
        for other in refused[1:]:
            first.add_note(f"{other.slide_id}: {other.cause}")
        raise first
    return Cohort(samples, chosen, tuple((one.slide_id, str(one.cause)) for one in refused), left_out)


def _find(source: Path, format: str) -> tuple[tuple[Sample | Refused | LeftOut, ...], str]:
    """What the reader of a format finds, and which reader that is."""
    if not source.exists():
        msg = f"{source} does not exist: give a folder, a manifest or an image"
        raise CohortError(msg)
    if format == "auto":
        try:
            format, why = detect(source)
        except CohortError as error:
            if (output := tool_output(source)) is None:
                raise
            raise CohortError(str(output)) from error
        _check_no_output(source, format)
    elif format in SOURCES:
        why = "as asked"
    else:
        msg = f"format {format!r} is not known: choose one of auto, {', '.join(SOURCES)}"
        raise CohortError(msg)
    return SOURCES[format](source), f"{format}: {why}"


def _check_no_output(source: Path, format: str) -> None:
    """Refuse what only looks like a cohort: a table, counts, one file or pictures that another tool wrote as output.

    Raises
    ------
    CohortError
        If it is, with what can be done.
    """
    folder = {one for one in source.iterdir() if one.is_file()} if format == "slides" and source.is_dir() else set()
    beside_features = bool(folder) and all(  # STAMP leaves a picture beside each file
        one.suffix == ".h5" or (one.suffix == ".jpg" and one.with_suffix(".h5") in folder) for one in folder
    )
    file = source.is_file() and format == "slides" and source.suffix in _OUTPUT_SUFFIXES
    if format not in ("manifest", "h5ad") and not beside_features and not file:
        return
    output = tool_output(source)
    if output is not None and (
        file or output.tool in ("eva", "spared") or (beside_features and output.tool == "STAMP")
    ):
        raise CohortError(str(output))


def _named(found: Sample | Refused) -> Sample | Refused:
    """What was found, refused where its id cannot become a file name."""
    try:
        check_name(found.slide_id, "slide id")
    except InvalidNameError as error:
        return Refused(found.slide_id, error)
    return found


def _with_pitch(sample: Sample, pitch_um: float | None) -> Sample:
    """The sample with the pitch of the command line, where its source gives none."""
    if pitch_um is None or sample.read_measured is None:
        return sample
    if sample.pitch_um is None:
        return replace(sample, pitch_um=pitch_um)
    if max(sample.pitch_um, pitch_um) > MAX_DISAGREEMENT * min(sample.pitch_um, pitch_um):
        msg = (
            f"slide {sample.slide_id}: its {sample.declared_in} says a spot pitch of {sample.pitch_um:g} um, "
            f"--pitch-um {pitch_um:g}: correct one of them"
        )
        raise ScaleError(msg)
    return sample


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
