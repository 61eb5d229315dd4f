"""The catalogue against the files it speaks of."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from .catalog_file import CATALOG, COLUMNS, read_columns
from .catalog_rows import Entry
from .verify_problem import MENDS, Problem, of_error

log = logging.getLogger(__name__)

_STALE = ("mtime_ns", "problem")
"""What may differ without harm: a copied file has another time, and a file may have been mended."""


def check_catalog(root: Path, found: Mapping[str, Entry], *, named: Collection[str]) -> Iterator[Problem]:
    """Compare both files of the catalogue, as they lie there, with the rows that the files themselves give.

    Parameters
    ----------
    found
        Rows by path, of every file.
    named
        Paths of files that have a problem of their own; their rows are left alone.
    """
    found = {path: _named(entry) if path in named else entry for path, entry in found.items()}
    problems: list[Problem] = []
    if (root / COLUMNS).is_file():
        saved = read_columns(root)
        if saved is None:
            what = "is no catalogue of this version that can be read"
            problems.append(Problem(COLUMNS, "", "", what, MENDS["catalog"]))
        else:
            rows = (entry for folder in saved.folders for entry in folder.entries())
            problems += compare_rows(COLUMNS, rows, found)
    if (root / CATALOG).is_file():
        blamed = {problem.path for problem in problems} - {COLUMNS}
        problems += _check_parquet(root, {path: _named(now) if path in blamed else now for path, now in found.items()})
    yield from problems


def compare_rows(catalog: str, rows: Iterable[Entry], found: Mapping[str, Entry]) -> Iterator[Problem]:
    """Problems of the rows of a catalogue; a file that it does not have yet is none.

    Bytes that changed under the same size and time are a problem of the file where the catalogue has a checksum of
    its own, as `catalog.json` has: no writer leaves the time as it was, a failing disk does.
    """
    for row in rows:
        now = found.get(row.path)
        if now is None:
            what = f"speaks of {row.path}, which is not there"
            yield Problem(catalog, "", f"row of {row.path}", what, MENDS["catalog"])
            continue
        if now.problem:
            continue  # the file itself is reported
        same_stat = (row.size, row.mtime_ns) == (now.size, now.mtime_ns)
        if catalog == COLUMNS and same_stat and row.sha256 not in ("", now.sha256):
            what = (
                f"sha256 is {now.sha256[:12]}, was {row.sha256[:12]} when it was catalogued with the same size and time"
            )
            yield Problem(row.path, "", "", what, MENDS[row.kind])
            continue
        differ = [name for name in Entry._fields if name not in _STALE and getattr(row, name) != getattr(now, name)]
        if differ:
            said = ", ".join(f"{name} {getattr(row, name)!r}, the file has {getattr(now, name)!r}" for name in differ)
            yield Problem(catalog, "", f"row of {row.path}", f"says {said}", MENDS["catalog"])


def _check_parquet(root: Path, found: Mapping[str, Entry]) -> Iterator[Problem]:
    try:
        import polars
    except ImportError:
        log.info("%s is not compared: polars is not installed", CATALOG)
        return
    try:
        rows = [Entry(**row) for row in polars.read_parquet((root / CATALOG).read_bytes()).to_dicts()]
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, TypeError) as error:
        yield of_error(root, CATALOG, error, mend=MENDS["catalog"])
        return
    yield from compare_rows(CATALOG, rows, found)


def _named(entry: Entry) -> Entry:
    """The row of a file that has a problem of its own."""
    return entry._replace(problem="named")
