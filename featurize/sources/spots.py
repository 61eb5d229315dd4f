"""Where the spots lie: tables of positions in two shapes, and what columns beside positions say."""

from __future__ import annotations

import csv
import gzip
import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ...store.arrays import Floats, Ints, Strings
from ...store.errors import CohortError
from ...store.naming import cell_text
from .images import reading
from .sample import MeasuredSpots, Spots

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)

SEPARATORS = {".tsv": "\t", ".csv": ","}
"""Ending of a text table, before an optional `.gz` -> its separator."""


@dataclass(frozen=True)
class CountMatrix:
    """Raw counts as a file has them.

    Attributes
    ----------
    barcode
        (n,) names of the rows, each once.
    genes
        (n_genes,) names of the columns, each once.
    counts
        (n, n_genes) float32.
    """

    barcode: Strings
    genes: Strings
    counts: csr_matrix


def separator_of(path: Path) -> str | None:
    """Separator of a text table by its ending; None for another kind of file."""
    name = path.name.lower().removesuffix(".gz")
    return SEPARATORS.get(Path(name).suffix)


def read_text(path: Path) -> bytes:
    """Bytes of a plain or gzipped text file.

    Raises
    ------
    CohortError
        If it is missing, truncated, or may not be read.
    """
    with reading(path):
        if not path.is_file():
            msg = f"{path} does not exist: correct the path in the manifest, or add the file"
            raise CohortError(msg)
        data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        msg = f"{path} is not a whole gzip file ({error}): copy it again"
        raise CohortError(msg) from error


def read_count_table(path: Path) -> CountMatrix:
    """Read a text table of counts: rows are spots, the first column their barcodes; the header names the genes.

    The header may or may not have a field above the barcodes. A gene that has several columns gets their sum: that
    keeps the spot's total, and a gene means the same on every slide, whatever the order of its columns.

    Raises
    ------
    CohortError
        If the file is missing, truncated, ragged or empty, a barcode repeats, or a cell is no count.
    """
    import polars

    separator = separator_of(path)
    if separator is None:
        msg = f"{path} is no count table: its name must end in {', '.join(SEPARATORS)}, plain or with .gz"
        raise CohortError(msg)
    head, _, body = read_text(path).removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    first = body.partition(b"\n")[0]
    names = _gene_names(_fields(head, separator, path), _fields(first, separator, path), path)
    schema: dict[str, Any] = {"barcode": polars.String}
    schema |= {f"gene{i}": polars.Float32 for i in range(len(names))}  # the file's own names may repeat
    try:
        table = polars.read_csv(body, separator=separator, has_header=False, schema=schema)
    except polars.exceptions.PolarsError as error:
        cause = str(error).splitlines()[0]
        msg = f"{path} cannot be read as counts ({cause}): wanted a barcode and numbers in every row"
        raise CohortError(msg) from error
    dense = table.drop("barcode").to_numpy()  # (n, n_columns); an empty cell is NaN
    barcode = np.array(table["barcode"].fill_null("").to_list(), dtype=np.str_)
    return checked_matrix(path, barcode, np.array(names, dtype=np.str_), csr_matrix(dense))


def checked_matrix(path: Path, barcode: Strings, genes: Strings, counts: csr_matrix) -> CountMatrix:
    """Counts that are counts, with the columns of one gene summed.

    Raises
    ------
    CohortError
        If a barcode repeats or is empty, a gene has no name, or a value is negative or not finite.
    """
    repeated_or_empty("barcode", barcode, path)
    if (genes == "").any():
        msg = f"{path}: {int((genes == '').sum())} of {len(genes)} genes have no name: give them names"
        raise CohortError(msg)
    wrong = np.flatnonzero(~np.isfinite(counts.data) | (counts.data < 0))
    if len(wrong):
        row = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
        msg = f"{path}: row {barcode[row]} holds an empty, negative or infinite count; raw counts are wanted"
        raise CohortError(msg)
    if (counts.data != np.rint(counts.data)).any():
        log.warning("%s holds fractions: raw counts are wanted, and every target takes them for that", path)
    return CountMatrix(barcode, *_summed(genes, counts.astype(np.float32), path))


def repeated_or_empty(what: str, names: Strings, path: Path) -> None:
    """Refuse names of rows that do not tell them apart.

    Raises
    ------
    CohortError
        Naming those that repeat.
    """
    repeated = [str(name) or "(empty)" for name, times in Counter(names.tolist()).items() if times > 1 or not name]
    if repeated:
        shown = ", ".join(repeated[:5]) + (f" and {len(repeated) - 5} more" if len(repeated) > 5 else "")
        msg = f"{path}: {what} {shown} occurs more than once or is empty: each row needs its own"
        raise CohortError(msg)


def _summed(genes: Strings, counts: csr_matrix, path: Path) -> tuple[Strings, csr_matrix]:
    """One column a gene, in the order in which genes first occur."""
    unique, first, inverse = np.unique(genes, return_index=True, return_inverse=True)
    if len(unique) == len(genes):
        return genes, counts
    log.info("%s: %d gene columns share %d names and were summed", path, len(genes), len(unique))
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ones = np.ones(len(genes), dtype=np.float32)
    onto = csr_matrix((ones, (np.arange(len(genes)), place[inverse])), shape=(len(genes), len(unique)))
    return unique[order], csr_matrix(counts @ onto)


def _gene_names(header: list[str], row: list[str], path: Path) -> list[str]:
    """The header without its corner, if it has one: the first row tells."""
    names = header[1:] if len(header) == len(row) else header
    if not names or len(row) != len(names) + 1:
        msg = (
            f"{path}: its header has {len(header)} fields and its first row {len(row)}; wanted a header of gene names "
            "and rows of a barcode with one count a gene"
        )
        raise CohortError(msg)
    return names


def _fields(line: bytes, separator: str, path: Path) -> list[str]:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        msg = f"{path} is no UTF-8 text ({error}): save it as such"
        raise CohortError(msg) from error
    return next(csv.reader([text], delimiter=separator), [])


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


MAX_UNMATCHED = 0.10
"""Share of the spots, or of the count rows, that may lack a partner before it is worth a warning."""


def join(slide_id: str, spots: Spots, matrix: CountMatrix) -> MeasuredSpots:
    """Keep what has both a position and counts, in the order of the spots; the log says how much was dropped.

    Where more than `MAX_UNMATCHED` of either was, it warns: a few are cut at the border of the tissue, many mean that
    the two files name their spots in different ways.

    Raises
    ------
    CohortError
        If nothing matches.
    """
    row_of = {name: row for row, name in enumerate(matrix.barcode.tolist())}
    rows = np.array([row_of.get(name, -1) for name in spots.barcode.tolist()], dtype=np.int64)
    kept = np.flatnonzero(rows >= 0)
    if not len(kept):
        msg = (
            f"slide {slide_id}: none of its {len(spots.barcode)} spots ({spots.barcode[0]}, ...) is among the "
            f"{len(matrix.barcode)} rows of its counts ({matrix.barcode[0]}, ...). Rows must be spots and columns "
            "genes, with the same barcodes in both files."
        )
        raise CohortError(msg)
    background = sum(name in row_of for name in spots.background.tolist())
    _tell(slide_id, spots=len(rows), count_rows=len(matrix.barcode) - background, kept=len(kept))
    return MeasuredSpots(spots.select(kept), matrix.counts[rows[kept]], matrix.genes)


def _tell(slide_id: str, *, spots: int, count_rows: int, kept: int) -> None:
    """Log what found no partner: as a warning, with the mend, where it is much."""
    dropped = (
        f"slide {slide_id}: {kept} spots with counts; dropped {spots - kept} spots without counts and "
        f"{count_rows - kept} count rows without a spot"
    )
    if max(1 - kept / spots, 1 - kept / count_rows) <= MAX_UNMATCHED:
        log.info("%s", dropped)
        return
    log.warning(
        "%s, of %d spots and %d count rows. Are the barcodes of one kind in both files, and both files of this slide? "
        "If so, and the rest lies beside the tissue, nothing is wrong.",
        dropped,
        spots,
        count_rows,
    )
