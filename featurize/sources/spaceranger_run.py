"""Positions and raw counts of 10x Space Ranger: Visium v1 and v2, and bins of Visium HD.

The counts are read by scanpy, the positions are a table in CSV or Parquet. (`scanpy.read_visium` and the readers of
squidpy and spatialdata-io want the down-scaled pictures too, and the first knows no HD.)
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import CohortError
from ..cohort import Measured, Spots
from .access import reading
from .count_matrix import CountMatrix, repeated_or_empty
from .h5ad import DAMAGED, matrix_of
from .joining import join
from .spot_table import IN_TISSUE, stated_diameter, under_tissue

if TYPE_CHECKING:
    import polars

POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
"""Of Visium HD, of Space Ranger 2 and later (with a header), and of Space Ranger 1 (without)."""

SCALE_FACTORS = "scalefactors_json.json"

COLUMNS = ("barcode", IN_TISSUE, "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")

MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
"""Names of the counts, with `.h5` or as a folder, in order of preference."""


def read_run(slide_id: str, folder: Path) -> Measured:
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
