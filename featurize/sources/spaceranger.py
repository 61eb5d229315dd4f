"""10x Space Ranger outputs: Visium v1 and v2, and the bins of Visium HD; one run, or a folder of runs.

A run is the folder `outs` (or one with its contents) and the full-resolution image that it was made from, which Space
Ranger does not keep: it is looked for beside the run. The pitch of Visium's spots is 100 um by the making of the slide.
Visium HD says its um/px and the side of its bins itself.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import CohortError
from .h5ad import DAMAGED, matrix_of
from .images import images_below, reading, slide_name
from .sample import MeasuredSpots, Refused, Sample, Spots, unknown_patient
from .spots import IN_TISSUE, CountMatrix, join, repeated_or_empty, stated_diameter, under_tissue

if TYPE_CHECKING:
    import polars

POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
"""Of Visium HD, of Space Ranger 2 and later (with a header), and of Space Ranger 1 (without)."""

SCALE_FACTORS = "scalefactors_json.json"

COLUMNS = ("barcode", IN_TISSUE, "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")

MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
"""Names of the counts, with `.h5` or as a folder, in order of preference."""


def read_run(slide_id: str, folder: Path) -> MeasuredSpots:
    """Read the spots under tissue, in the order of their table, with their raw counts.

    Centres are `pxl_col_in_fullres` (x) and `pxl_row_in_fullres` (y). Only gene expression is read, by symbol.

    Parameters
    ----------
    folder
        The one that holds `spatial` and the matrix.

    Raises
    ------
    CohortError
        If a file is missing or damaged, no spot lies under tissue, or none has counts.
    """
    return join(slide_id, _read_spots(positions_of(folder)), _read_counts(matrix_path(folder)))


def positions_of(folder: Path) -> Path:
    """The table of positions of a run.

    Raises
    ------
    CohortError
        If there is none.
    """
    for name in POSITIONS:
        if (folder / "spatial" / name).is_file():
            return folder / "spatial" / name
    msg = f"{folder / 'spatial'} holds no {' or '.join(POSITIONS)}: give the whole output of Space Ranger"
    raise CohortError(msg)


def matrix_path(folder: Path) -> Path:
    """The counts of a run, also under the names that 10x gives them for download.

    Raises
    ------
    CohortError
        If there are none, or several of the same kind.
    """
    for name in MATRICES:
        with reading(folder):
            found = sorted(path for path in folder.glob(f"*{name}.h5") if not path.name.startswith("."))
        if len(found) > 1:
            msg = f"{folder} holds {', '.join(path.name for path in found)}: keep the one of this slide"
            raise CohortError(msg)
        if found:
            return found[0]
        if (folder / name).is_dir():
            return folder / name
    msg = f"{folder} holds no {' or '.join(f'{name}.h5' for name in MATRICES)}: add the counts"
    raise CohortError(msg)


def _read_counts(path: Path) -> CountMatrix:
    import scanpy

    read = scanpy.read_10x_mtx if path.is_dir() else scanpy.read_10x_h5
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that symbols repeat: they are summed
            adata = read(path, **({"make_unique": False} if path.is_dir() else {}))
    except DAMAGED as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} cannot be read as counts of 10x Genomics ({cause}): it is damaged or of another kind"
        raise CohortError(msg) from error
    return matrix_of(adata, path)


def _read_spots(path: Path) -> Spots:
    import polars

    table = _read_table(path)
    inside = under_tissue(table[IN_TISSUE].to_numpy(), path)
    numbers = table.select(polars.col(COLUMNS[2:]).cast(polars.Float64, strict=False))
    values = numbers.to_numpy()[inside]  # (n, 4)
    if not np.isfinite(values).all():
        row = int(inside[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]])
        msg = f"{path}: row {row + 1} holds {table.row(row)[1:]}; wanted numbers in {', '.join(COLUMNS[1:])}"
        raise CohortError(msg)
    names = np.array(table["barcode"].fill_null("").to_list(), dtype=np.str_)
    barcode, background = names[inside], np.delete(names, inside)
    repeated_or_empty("spot", barcode, path)
    array, diameter_px = values[:, :2].astype(np.int32), _diameter_px(path.parent)
    return Spots(barcode, values[:, [3, 2]], array, diameter_px, background=background)


def _diameter_px(spatial: Path) -> float | None:
    """Diameter of a spot in level-0 pixels, where the scale factors say it."""
    path = spatial / SCALE_FACTORS
    with reading(path):
        text = path.read_bytes() if path.is_file() else b"{}"
    return stated_diameter(json.loads(text).get("spot_diameter_fullres"))  # `run_pitch_um` has read the file already


def _read_table(path: Path) -> polars.DataFrame:
    """The columns of a table of positions, the numbers as they stand."""
    import polars

    try:
        with reading(path):
            data = path.read_bytes()
        table = polars.read_parquet(io.BytesIO(data)) if path.suffix == ".parquet" else _read_text_table(data)
    except polars.exceptions.PolarsError as error:
        msg = f"{path} cannot be read as positions of Space Ranger ({str(error).splitlines()[0]}): copy it again"
        raise CohortError(msg) from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        msg = f"{path} has the columns {', '.join(table.columns)}; {', '.join(missing)} must be among them"
        raise CohortError(msg)
    return table.select(COLUMNS)


def _read_text_table(data: bytes) -> polars.DataFrame:
    """A table of text; Space Ranger 2 and later write a header, and R quotes it and may put names of rows first."""
    import polars

    data = data.removeprefix(b"\xef\xbb\xbf")
    head, _, body = data.partition(b"\n")
    separator = max(",\t;", key=lambda one: head.count(one.encode()))
    (fields, first) = (
        next(csv.reader([line.decode(errors="replace").rstrip("\r")], delimiter=separator), [])
        for line in (head, body.partition(b"\n")[0])
    )
    headed = COLUMNS[0] in fields
    names: list[str] | None = None
    if not headed:
        names = list(COLUMNS)
    elif len(first) == len(fields) + 1:  # R leaves the corner above the names of rows out
        names = ["", *fields]
    return polars.read_csv(
        body if headed and names else data,
        has_header=headed and not names,
        new_columns=names,
        infer_schema=False,
        separator=separator,
    )


VISIUM_PITCH_UM = 100.0
"""Distance of neighbouring spots of Visium, v1 and v2, 6.5 and 11 mm (10x Genomics, CG000312)."""

BINS = "binned_outputs"
DECLARED_IN = "Space Ranger output"

_BIN = re.compile(r"square_(\d+)um")


@dataclass(frozen=True)
class SpaceRangerRun:
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


def spaceranger_runs(source: Path) -> list[SpaceRangerRun]:
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


def spaceranger_why(source: Path, runs: list[SpaceRangerRun]) -> str:
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


def _run(folder: Path) -> SpaceRangerRun | None:
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
    return SpaceRangerRun(around.name, outs, counted)


def _sample(run: SpaceRangerRun, source: Path) -> Sample | Refused:
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


def _image(run: SpaceRangerRun, source: Path) -> Path:
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
