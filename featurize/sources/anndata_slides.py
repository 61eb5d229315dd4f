"""AnnData files with `obsm["spatial"]`, one a slide, each beside the image it was measured on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...store.errors import CohortError
from ...store.patients import known_text, patient_name
from ..cohort import Refused, Sample, unknown_patient
from .access import reading
from .h5ad import damaged, read_h5ad, refuse_prediction
from .images import Listing, image_named, images_below

log = logging.getLogger(__name__)

PATIENT = ("patient_id", "patient", "donor_id", "donor")
"""Columns of `obs`, and keys of `uns`, that name the patient, in order of preference (`donor_id` is CELLxGENE's)."""

LIBRARY = ("library_id", "library", "slide_id")
"""Columns of `obs` that tell slides apart where several were put into one file."""


@dataclass(frozen=True)
class Said:
    """What an AnnData says of its slide beside spots and counts."""

    patient: str | None = None
    mpp: float | None = None


def h5ad_files(folder: Path) -> list[Path]:
    """AnnData files directly in a folder, by name."""
    with reading(folder):
        return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".h5ad" and not p.name.startswith("."))


def h5ad_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample for each `<id>.h5ad`, its image `<id>.<ending>` beside it or in a folder `images` or `wsis`.

    The patient is what `obs` or `uns` names as `patient_id` or `patient`; um/px is `mpp` of a tissuary export, or
    `microns_per_pixel` among the scale factors of `uns["spatial"]`.

    Raises
    ------
    CohortError
        If there is no such file.
    """
    files = [source] if source.is_file() else h5ad_files(source)
    if not files:
        msg = f"{source} holds no .h5ad directly in it: give the folder that does, or one file"
        raise CohortError(msg)
    names = {path.stem for path in files}
    listing = images_below(files[0].parent)  # once for all files
    alone = [image.slide_id for image in listing.images if image.slide_id not in names]
    if alone and source.is_dir():
        log.warning(
            "%s: %d image(s) without an AnnData are left out, the first is %s; --format slides takes images alone",
            source, len(alone), alone[0],
        )  # fmt: skip
    return tuple(_sample(path, listing) for path in files)


def _sample(path: Path, listing: Listing) -> Sample | Refused:
    slide_id = path.stem
    try:
        image = image_named(listing, slide_id, folder=path.parent, wanted=f"{path}")
        said = read_said(path)
    except CohortError as error:
        return Refused(slide_id, error)
    return Sample(
        slide_id,
        said.patient or unknown_patient(slide_id),
        image,
        mpp=said.mpp,
        read_measured=partial(read_h5ad, path),
        declared_in="AnnData",
    )


def read_said(path: Path) -> Said:
    """Read what an AnnData says of its slide, leaving its counts where they are.

    Raises
    ------
    CohortError
        If it is damaged, a prediction, holds several slides or patients, or its um/px is no positive number.
    """
    import h5py
    from anndata.io import read_elem

    with reading(path):
        if not path.is_file():
            msg = f"{path} does not exist: correct the path"
            raise CohortError(msg)
    try:
        with h5py.File(path, "r") as file:

            def read(name: str) -> Any:
                return read_elem(file[name]) if name in file else None

            several = {name: distinct(read(f"obs/{name}"), known_text) for name in LIBRARY}
            libraries = _libraries(file)
            places = [f"{where}/{name}" for name in PATIENT for where in ("obs", "uns")]
            named = {place: distinct(read(place), patient_name) for place in (*places, "uns/tissuary/patient_id")}
            mpp, kind = _mpp(read, libraries), read("uns/tissuary/encoding-type")
    except damaged() as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} cannot be read as AnnData ({cause}): it is damaged or of another kind"
        raise CohortError(msg) from error
    refuse_prediction(kind, path)
    _check_one(path, several, libraries)
    if mpp is not None and not 0 < mpp < math.inf:
        msg = f"{path}: its um/px is {mpp:g}; wanted a positive number"
        raise CohortError(msg)
    return Said(one_patient(named, path), mpp)


def one_patient(named: Mapping[str, list[str]], where: Path) -> str | None:
    """Patient of a slide, from what each place says; a warning where places differ, of which the first is taken.

    Parameters
    ----------
    named
        Different patients by place, such as a column of `obs`, in order of preference.

    Raises
    ------
    CohortError
        If one place names several.
    """
    said = {place: values for place, values in named.items() if values}
    for place, values in said.items():
        if len(values) > 1:
            msg = (
                f"{where}: {place} names {len(values)} patients ({', '.join(values[:3])}): a slide has one; write one "
                "file a slide"
            )
            raise CohortError(msg)
    if len({values[0] for values in said.values()}) > 1:
        listed = ", ".join(f"{place} says {values[0]}" for place, values in said.items())
        log.warning("%s: %s; the first is taken as the patient", where, listed)
    return next((values[0] for values in said.values()), None)


def _libraries(file: Any) -> list[str]:
    """Slides that `uns["spatial"]` describes: beside them may stand marks and notes, or positions in their place."""
    spatial = file.get("uns/spatial")
    if not hasattr(spatial, "keys"):
        return []
    groups = {name: entry for name, entry in spatial.items() if hasattr(entry, "keys")}
    described = [name for name, entry in groups.items() if {"images", "scalefactors"} & set(entry)]
    return sorted(described or groups)


def _mpp(read: Callable[[str], Any], libraries: list[str]) -> float | None:
    places = ["uns/tissuary/mpp", *(f"uns/spatial/{one}/scalefactors/microns_per_pixel" for one in libraries)]
    return next((float(value) for value in map(read, places) if value is not None), None)


def _check_one(path: Path, columns: dict[str, list[str]], libraries: list[str]) -> None:
    """Refuse a file that says itself that it holds several slides: its positions would be of several images."""
    several = next(((f"obs[{name!r}]", values) for name, values in columns.items() if len(values) > 1), None)
    if several is None and len(libraries) > 1:
        several = ('uns["spatial"]', libraries)
    if several is not None:
        where, values = several
        msg = f"{path}: {where} names {len(values)} of them ({', '.join(values[:3])}): write one file a slide"
        raise CohortError(msg)


def distinct(values: Any, name_of: Callable[[Any], str | None]) -> list[str]:
    """Different names in a column or single entry, without cells that name nothing."""
    if values is None or isinstance(values, Mapping):
        return []
    cells = set(np.asarray(values, dtype=object).reshape(-1).tolist())
    return sorted({name for cell in cells if (name := name_of(cell))})
