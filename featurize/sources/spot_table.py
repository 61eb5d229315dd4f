"""Where the spots lie: tables of positions in two shapes, and what columns beside positions say."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import CohortError
from ...store.patients import cell_text
from ..cohort import Spots
from .count_matrix import read_text, repeated_or_empty, separator_of

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)

PIXELS = ("pixel_x", "pixel_y")
ARRAY = ("array_row", "array_col")
LEGACY = ("x", "y")
IN_TISSUE = "in_tissue"

MOST_LABELS = 20
"""Most different values of a column that may tell sections apart."""

_TRUTH = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}


def read_spots(path: Path) -> Spots:
    """Read a table of spots, in the file's order.

    Either `barcode, pixel_x, pixel_y` and perhaps `array_row, array_col`; or the columns of legacy ST, `x, y` (column
    and row on the array, whence the barcode `<x>x<y>`), `pixel_x, pixel_y`. Columns `selected` and `in_tissue` keep the
    rows that are 1; other columns are ignored.

    Raises
    ------
    CohortError
        If the file is missing, lacks columns, holds no spots, repeats a barcode, or a position is not a number.
    """
    table = _read(path)
    if "selected" in table.columns:
        table = table.filter(_numbers(table, "selected", path) == 1)
    if not len(table):
        msg = f"{path} holds no spots{' that are selected' if 'selected' in table.columns else ''}: nothing to measure"
        raise CohortError(msg)
    background = np.array([], dtype=np.str_)
    if IN_TISSUE in table.columns:
        inside = under_tissue(table[IN_TISSUE].to_list(), path)
        if "barcode" in table.columns:
            background = np.delete(np.array(table["barcode"].fill_null("").to_list(), dtype=np.str_), inside)
        table = table[inside]
    center = np.stack([_numbers(table, name, path) for name in PIXELS], axis=1)  # (n, 2) x, y
    if "barcode" in table.columns:
        barcode = np.array(table["barcode"].fill_null("").to_list(), dtype=np.str_)
        array = _whole(table, ARRAY, path) if set(ARRAY) <= set(table.columns) else None
    else:
        x, y = _whole(table, LEGACY, path).T
        barcode = np.array([f"{i}x{j}" for i, j in zip(x, y, strict=True)], dtype=np.str_)
        array = np.stack([y, x], axis=1)  # (n, 2) row, column
    repeated_or_empty("spot", barcode, path)
    others = (name for name in table.columns if name not in (*PIXELS, *ARRAY, *LEGACY, "barcode", IN_TISSUE))
    labels = label_columns((name, table[name].to_list()) for name in others)
    return Spots(barcode, center, array, labels=labels, background=background)


def under_tissue(values: Any, path: Path) -> Ints:
    """Rows whose `in_tissue` is 1, for every source whose spots have that column.

    Raises
    ------
    CohortError
        If a value is neither 0 nor 1, or none is 1.
    """
    cells = np.asarray(values)
    if cells.dtype.kind in "biuf":
        wrong, inside = ~np.isin(cells, (0, 1)), cells == 1
    else:
        cells = np.asarray(values, dtype=object)
        truth = {cell: _TRUTH.get(cell_text(cell).casefold()) for cell in set(cells.tolist())}
        found = [truth[cell] for cell in cells.tolist()]
        wrong, inside = np.array([one is None for one in found]), np.array([bool(one) for one in found])
    if wrong.any():
        row = int(np.argmax(wrong))
        msg = f"{path}: {IN_TISSUE} of spot {row + 1} is {str(cells[row])!r}; wanted 1 or 0"
        raise CohortError(msg)
    if not inside.any():
        msg = (
            f"{path}: none of {len(cells)} spots is {IN_TISSUE}: was the tissue detected on the right image? Correct "
            "the column, or take it out to keep all spots"
        )
        raise CohortError(msg)
    if not inside.all():
        log.info("%s: %d of %d spots lie beside the tissue and are left out", path, (~inside).sum(), len(cells))
    return np.flatnonzero(inside)


def stated_diameter(said: Any) -> float | None:
    """Diameter of a spot in level-0 pixels as scale factors have it; None of what is no positive number."""
    if isinstance(said, bool) or not isinstance(said, Real):
        return None
    diameter_px = float(said)
    return diameter_px if 0 < diameter_px < math.inf else None


def label_columns(columns: Iterable[tuple[str, Any]]) -> dict[str, NDArray[np.object_]]:
    """Columns of 2 to `MOST_LABELS` different texts or whole numbers."""
    import pandas

    found = {}
    for name, column in columns:
        values = pandas.Series(column)
        if not pandas.api.types.is_float_dtype(values) and 2 <= values.nunique() <= MOST_LABELS:
            found[str(name)] = np.asarray(values.astype(str), dtype=object)
    return found


def _read(path: Path) -> polars.DataFrame:
    import polars

    separator = separator_of(path)
    if separator is None:
        msg = f"{path} is no spot table: its name must end in .tsv or .csv, plain or with .gz"
        raise CohortError(msg)
    try:
        table = polars.read_csv(read_text(path), separator=separator, infer_schema=False)
    except polars.exceptions.PolarsError as error:
        msg = f"{path} cannot be read as a table ({str(error).splitlines()[0]})"
        raise CohortError(msg) from error
    names = set(table.columns)
    if not set(PIXELS) <= names or not ("barcode" in names or set(LEGACY) <= names):
        msg = (
            f"{path} has the columns {', '.join(table.columns)}; wanted pixel_x and pixel_y, and either barcode or "
            "x and y"
        )
        raise CohortError(msg)
    return table


def _numbers(table: polars.DataFrame, name: str, path: Path) -> Floats:
    import polars

    values = table[name].str.strip_chars().cast(polars.Float64, strict=False)
    wrong = np.flatnonzero(~np.isfinite(values.fill_null(float("nan")).to_numpy()))
    if len(wrong):
        msg = f"{path}: {name} of spot {wrong[0] + 1} is {table[name][int(wrong[0])]!r}; wanted a number"
        raise CohortError(msg)
    return values.to_numpy()


def _whole(
    table: polars.DataFrame, names: tuple[str, str], path: Path
) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Two columns of whole numbers (n, 2)."""
    values = np.stack([_numbers(table, name, path) for name in names], axis=1)
    wrong = np.argwhere((values != np.rint(values)) | (np.abs(values) >= 2**31))
    if len(wrong):
        row, column = (int(v) for v in wrong[0])
        msg = f"{path}: {names[column]} of spot {row + 1} is {values[row, column]:g}; array positions are whole numbers"
        raise CohortError(msg)
    return values.astype(np.int32)
