"""A manifest: one row a slide, in a CSV or Parquet table."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path

from ...store.errors import CohortError
from ...store.naming import cell_text, patient_name
from .h5ad import read_h5ad, read_h5ad_counts
from .sample import MeasuredSpots, Sample, unknown_patient
from .spaceranger import SpaceRangerRun, read_run, run_pitch_um, spaceranger_runs
from .spots import SEPARATORS, join, read_count_table, read_spots, separator_of

log = logging.getLogger(__name__)

COLUMNS = ("slide_id", "patient_id", "image", "mpp", "pitch_um", "counts", "spots")
"""What a manifest may say; `slide_id` and `image` it must. Empty cells mean not said, paths are relative to it."""

MANIFEST_SUFFIXES = (".csv", ".parquet")
MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")

Row = dict[str, str]


def manifest_samples(source: Path) -> tuple[Sample, ...]:
    """One sample a row, in the manifest's order; of a folder, its `manifest.csv` or `manifest.parquet`.

    Raises
    ------
    CohortError
        If it cannot be read, lacks columns, or a row says something that cannot be used (naming the row).
    """
    path = source
    if source.is_dir():
        found = [source / name for name in MANIFEST_NAMES if (source / name).is_file()]
        if not found:
            msg = f"{source} holds no {' or '.join(MANIFEST_NAMES)}: give the manifest itself"
            raise CohortError(msg)
        path = found[0]
    rows = _rows(path)
    return tuple(_sample(row, path, where=f"{path}, row {number}") for number, row in enumerate(rows, start=1))


def _rows(path: Path) -> list[Row]:
    """Cells as stripped text, "" where not said."""
    import polars

    try:
        if path.suffix.lower() == ".parquet":
            table = polars.read_parquet(path)
        else:
            table = polars.read_csv(path, infer_schema=False)
        table = table.rename(str.strip)  # two columns may have one name then
    except (polars.exceptions.PolarsError, OSError) as error:
        msg = f"manifest {path} cannot be read ({str(error).splitlines()[0]}): wanted CSV or Parquet"
        raise CohortError(msg) from error
    missing = [name for name in ("slide_id", "image") if name not in table.columns]
    if missing:
        msg = (
            f"manifest {path} has the columns {', '.join(table.columns)}; {' and '.join(missing)} must be among them "
            f"(known: {', '.join(COLUMNS)})"
        )
        raise CohortError(msg)
    ignored = [name for name in table.columns if name not in COLUMNS]
    if ignored:
        log.warning("manifest %s: columns ignored: %s (known: %s)", path, ", ".join(ignored), ", ".join(COLUMNS))
    if not len(table):
        msg = f"manifest {path} has no rows: wanted one a slide"
        raise CohortError(msg)
    known = [name for name in COLUMNS if name in table.columns]
    return [
        # Text stays as it is but for patients: a path may hold what their one spelling would change.
        {name: cell.strip() if isinstance(cell, str) else cell_text(cell) for name, cell in row.items()}
        for row in table.select(known).iter_rows(named=True)
    ]


def _sample(row: Row, manifest: Path, *, where: str) -> Sample:
    slide_id, image = row["slide_id"], row["image"]
    if not slide_id or not image:
        msg = f"{where}: slide_id is {slide_id!r} and image {image!r}; both must be said"
        raise CohortError(msg)
    run = _run(row, manifest, where)
    pitch_um, mpp = (None, None) if run is None else run_pitch_um(run.counted)
    return Sample(
        slide_id,
        patient_name(row.get("patient_id")) or unknown_patient(slide_id),
        manifest.parent / image,
        mpp=_positive(row, "mpp", where) or mpp,
        pitch_um=_positive(row, "pitch_um", where) or pitch_um,
        read_measured=_measured_reader(row, manifest, where)
        if run is None
        else partial(read_run, slide_id, run.counted),
    )


def _run(row: Row, manifest: Path, where: str) -> SpaceRangerRun | None:
    """The output of Space Ranger that the counts of a row are, if they are a folder."""
    folder = manifest.parent / row.get("counts", "")
    if not row.get("counts") or not folder.is_dir():
        return None
    runs = spaceranger_runs(folder)
    if len(runs) != 1 or row.get("spots"):
        msg = (
            f"{where}: counts {row['counts']} are a folder with {len(runs)} runs of Space Ranger; wanted one, and no "
            "spots beside it"
        )
        raise CohortError(msg)
    return runs[0]


def _positive(row: Row, name: str, where: str) -> float | None:
    text = row.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        msg = f"{where}: {name} is {text!r}; wanted a positive number, or an empty cell where it is not known"
        raise CohortError(msg)
    return value


def _measured_reader(row: Row, manifest: Path, where: str) -> partial[MeasuredSpots] | None:
    counts, spots = row.get("counts"), row.get("spots")
    if not counts:
        if spots:
            msg = f"{where}: spots are given ({spots}) and no counts: add the counts, or empty the cell"
            raise CohortError(msg)
        return None
    counts_path = manifest.parent / counts
    is_h5ad = counts_path.suffix.lower() == ".h5ad"
    if not is_h5ad and separator_of(counts_path) is None:
        msg = f"{where}: counts are {counts}; wanted .h5ad, or {', '.join(SEPARATORS)} plain or with .gz"
        raise CohortError(msg)
    if not spots:
        if not is_h5ad:
            msg = f"{where}: counts {counts} carry no positions: name a table of spots beside them"
            raise CohortError(msg)
        return partial(read_h5ad, counts_path)
    return partial(_read_joined, row["slide_id"], counts_path, manifest.parent / spots)


def _read_joined(slide_id: str, counts: Path, spots: Path) -> MeasuredSpots:
    read = read_h5ad_counts if counts.suffix.lower() == ".h5ad" else read_count_table
    return join(slide_id, read_spots(spots), read(counts))
