"""Raw counts from text tables and AnnData files."""

from __future__ import annotations

import csv
import gzip
import logging
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ...store.arrays import Strings
from ...store.errors import CohortError
from .access import reading

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
