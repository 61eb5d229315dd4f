"""Look-alikes as a table in a file: one row a patch and rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars

    from ..store.search.search import Hit

TABLES = (".parquet", ".csv")


def hits_frame(slide_id: str, patch: int, found: tuple[Hit, ...]) -> polars.DataFrame:
    """The look-alikes of one patch, in the columns of `LookAlikes.frame`."""
    import polars

    schema = {
        "slide_id": polars.String,
        "patch": polars.Int32,
        "rank": polars.Int32,
        "neighbour_slide_id": polars.String,
        "neighbour_patient_id": polars.String,
        "neighbour_patch": polars.Int32,
        "x_um": polars.Float64,
        "y_um": polars.Float64,
        "distance": polars.Float32,
    }
    rows = [
        (slide_id, patch, hit.rank, hit.slide_id, hit.patient_id, hit.patch, hit.x_um, hit.y_um, hit.distance)
        for hit in found
    ]
    return polars.DataFrame(rows, schema=schema, orient="row")


def write_frame(path: Path, frame: polars.DataFrame) -> None:
    """Write a table by the suffix of its file, whole or not at all.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    from ..store.files.atomic import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_parquet(temporary)
