"""Where the spots lie: tables of positions, in two shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...store.arrays import Floats
from ...store.errors import CohortError
from ..cohort import Spots
from .count_matrix import read_text, repeated_or_empty, separator_of

if TYPE_CHECKING:
    import polars

PIXELS = ("pixel_x", "pixel_y")
ARRAY = ("array_row", "array_col")
LEGACY = ("x", "y")


def read_spots(path: Path) -> Spots:
    """Read a table of spots, in the file's order.

    Either `barcode, pixel_x, pixel_y` and perhaps `array_row, array_col`; or the columns of legacy ST, `x, y` (column
    and row on the array, whence the barcode `<x>x<y>`), `pixel_x, pixel_y`. A column `selected` keeps the rows that
    are 1; other columns are ignored.

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
    center = np.stack([_numbers(table, name, path) for name in PIXELS], axis=1)  # (n, 2) x, y
    if "barcode" in table.columns:
        barcode = np.array(table["barcode"].fill_null("").to_list(), dtype=np.str_)
        array = _whole(table, ARRAY, path) if set(ARRAY) <= set(table.columns) else None
    else:
        x, y = _whole(table, LEGACY, path).T
        barcode = np.array([f"{i}x{j}" for i, j in zip(x, y, strict=True)], dtype=np.str_)
        array = np.stack([y, x], axis=1)  # (n, 2) row, column
    repeated_or_empty("spot", barcode, path)
    return Spots(barcode, center, array)


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
