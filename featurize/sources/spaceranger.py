"""10x Space Ranger outputs: Visium v1 and v2, and the bins of Visium HD; one run, or a folder of runs.

A run is the folder `outs` (or one with its contents) and the full-resolution image that it was made from, which Space
Ranger does not keep: it is looked for beside the run. The pitch of Visium's spots is 100 um by the making of the slide.
Visium HD says its um/px and the side of its bins itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...store.errors import CohortError
from ..cohort import Refused, Sample, unknown_patient
from .access import reading
from .images import images_below, slide_name
from .spaceranger_run import POSITIONS, SCALE_FACTORS, read_run

VISIUM_PITCH_UM = 100.0
"""Distance of neighbouring spots of Visium, v1 and v2, 6.5 and 11 mm (10x Genomics, CG000312)."""

BINS = "binned_outputs"
DECLARED_IN = "Space Ranger output"

_BIN = re.compile(r"square_(\d+)um")


@dataclass(frozen=True)
class Run:
    """One output of Space Ranger.

    Attributes
    ----------
    outs
        The folder that holds its files; around it lies what belongs to the slide.
    counted
        The folder with positions and counts: `outs`, or one of its bins.
    """

    slide_id: str
    outs: Path
    counted: Path


def spaceranger_runs(source: Path) -> list[Run]:
    """The run that a folder is, or the runs in it, by name."""
    own = _run(source) or _run(source / "outs")
    if own is not None:
        return [own]
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for folder in folders if (run := _run(folder) or _run(folder / "outs")) is not None]


def spaceranger_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample a run; of Visium HD the coarsest bins, or those whose folder is given.

    Raises
    ------
    CohortError
        If there is no run.
    """
    runs = spaceranger_runs(source)
    if not runs:
        msg = (
            f"{source} holds no output of Space Ranger (spatial/{POSITIONS[1]} or {BINS}, itself, in outs, or in "
            "folders of runs): give the folder that does"
        )
        raise CohortError(msg)
    return tuple(_sample(run, source) for run in runs)


def spaceranger_why(source: Path, runs: list[Run]) -> str:
    """What was recognised, in words."""
    bins = sorted({run.counted.name for run in runs if _BIN.fullmatch(run.counted.name)})
    kind = f"Visium HD, {', '.join(bins)}" if bins else "Visium"
    if len(runs) > 1:
        return f"the folder holds {len(runs)} runs of Space Ranger ({kind})"
    found = runs[0].counted / "spatial"
    inside = found.relative_to(source) if found.is_relative_to(source) else found
    return f"the folder holds {inside} of Space Ranger ({kind})"


def run_pitch_um(counted: Path) -> tuple[float | None, float | None]:
    """Distance of neighbouring spots or bins in um, and um per pixel, as far as a run says.

    Raises
    ------
    CohortError
        If its scale factors cannot be read.
    """
    bins = _BIN.fullmatch(counted.name)
    path = counted / "spatial" / SCALE_FACTORS
    with reading(path):
        text = path.read_bytes() if path.is_file() else b"{}"
    try:
        factors = json.loads(text)
        bin_um, mpp = (None if factors.get(name) is None else float(factors[name]) for name in _FACTORS)
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read ({error}): copy it again"
        raise CohortError(msg) from error
    if bins is None and bin_um is None:
        return VISIUM_PITCH_UM, mpp
    return bin_um if bin_um is not None else float(bins[1]) if bins is not None else None, mpp


_FACTORS = ("bin_size_um", "microns_per_pixel")


def _run(folder: Path) -> Run | None:
    """The run that a folder is, if it is one."""
    with reading(folder):
        if (folder / BINS).is_dir():
            bins = [(int(match[1]), path) for path in (folder / BINS).iterdir() if (match := _BIN.fullmatch(path.name))]
            counted = max(bins)[1] if bins else None
        else:
            counted = folder if any((folder / "spatial" / name).is_file() for name in POSITIONS) else None
    if counted is None:
        return None
    outs = folder.resolve()
    if _BIN.fullmatch(outs.name) and outs.parent.name == BINS:
        outs = outs.parent.parent
    around = outs.parent if outs.name == "outs" else outs
    return Run(around.name, outs, counted)


def _sample(run: Run, source: Path) -> Sample | Refused:
    try:
        image = _image(run, source)
        pitch_um, mpp = run_pitch_um(run.counted)
    except CohortError as error:
        return Refused(run.slide_id, error)
    return Sample(
        run.slide_id,
        unknown_patient(run.slide_id),
        image,
        mpp=mpp,
        pitch_um=pitch_um,
        read_measured=partial(read_run, run.slide_id, run.counted),
        declared_in=DECLARED_IN,
    )


def _image(run: Run, source: Path) -> Path:
    """The only image around a run; of several the one called `tissue_image`, as 10x calls it beside CytAssist's."""
    around = run.outs.parent if run.outs.name == "outs" else run.outs
    listings = [images_below(folder) for folder in dict.fromkeys((run.outs, around))]
    found = [image.path for listing in listings for image in listing.images]
    if not found:
        listings.append(images_below(source))
        found = listings[-1].named(run.slide_id)
    if len(found) > 1:
        found = [image for image in found if slide_name(image).endswith("tissue_image")] or found
    if len(found) == 1:
        return found[0]
    listed = ", ".join(image.name for image in found) or f"none{''.join(one.not_read() for one in listings)}"
    msg = (
        f"{run.outs} needs the full-resolution image that Space Ranger was given, found {listed}: put that one image "
        "into the run's folder, or name it in a manifest whose counts are the run's folder. (tissue_hires_image.png is "
        "scaled down and cannot stand for it.)"
    )
    raise CohortError(msg)
