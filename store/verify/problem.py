"""What `verify` reports: one problem with its place and its mend, and how rows and errors are put in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError

_ANEW = "delete it and run `tissuary featurize` again: what is missing is made again, the rest is skipped"

MENDS = {
    "slide": _ANEW,
    "patches": _ANEW,
    "features": _ANEW,
    "expression": _ANEW,
    "index": "run `tissuary index` again",
    "catalog": "delete catalog.json and catalog.parquet; `tissuary status` makes them again",
    "place": "move it out of the store, or back to where it was",
    "qc": "delete it and run `tissuary featurize` again: the picture is drawn again",
}
"""How to fix a file, by its kind."""

_NAMED = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a store.

    Attributes
    ----------
    path
        File or folder, relative to the store.
    dataset
        Dataset inside the file; empty where it is the file as a whole.
    where
        Block, rows or attribute; empty where it is all of it.
    what
        What was found, and what was wanted.
    mend
        What to do.
    """

    path: str
    dataset: str
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.path, self.dataset, self.where) if part)
        return f"{place}: {self.what}. To fix it: {self.mend}."


def of_error(root: Path, path: str, error: Exception, *, mend: str) -> Problem:
    """The problem of a file that cannot be opened or read, from the error that says so."""
    text = str(error).removeprefix(str(root / path)).lstrip(" :")
    if not isinstance(error, StoreError):
        text = f"cannot be read: {text or type(error).__name__}"
    return Problem(path, "", "", text.rstrip("."), mend)


def name_rows(rows: Sequence[int]) -> str:
    """Words for row numbers: all of a few, the first of many."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"rows {', '.join(str(row) for row in rows[:_NAMED])}{more}"
