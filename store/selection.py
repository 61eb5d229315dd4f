"""Slides and rows chosen by polars expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Bools
from .errors import StoreError

if TYPE_CHECKING:
    import polars

    from .catalog import Entry


def slide_frame(entries: Sequence[Entry]) -> polars.DataFrame:
    """One line a slide that can be read: slide_id, patient_id, mpp, counts (bool), genes, and lists of what it has.

    `patch_sets` lists its patch sets, `features` its feature keys as `<patch set>/<feature key>`.
    """
    import polars

    slides = {e.slide_id: e for e in entries if e.kind == "slide" and not e.problem}
    genes = {e.slide_id: e.dim for e in entries if e.kind == "expression" and not e.problem}
    sets: dict[str, list[str]] = {slide: [] for slide in slides}
    keys: dict[str, list[str]] = {slide: [] for slide in slides}
    for entry in entries:
        if entry.slide_id in slides and not entry.problem:
            if entry.kind == "patches":
                sets[entry.slide_id].append(entry.patches)
            elif entry.kind == "features":
                keys[entry.slide_id].append(f"{entry.patches}/{entry.key}")
    names = sorted(slides)
    texts = polars.List(polars.String)
    return polars.DataFrame(
        {
            "slide_id": names,
            "patient_id": [slides[one].patient_id for one in names],
            "mpp": [slides[one].mpp for one in names],
            "counts": [one in genes for one in names],
            "genes": [genes.get(one, 0) for one in names],
            "patch_sets": polars.Series([sets[one] for one in names], dtype=texts),
            "features": polars.Series([keys[one] for one in names], dtype=texts),
        },
        schema_overrides={"slide_id": polars.String, "patient_id": polars.String, "mpp": polars.Float64},
    )


def holds(condition: polars.Expr, frame: polars.DataFrame) -> Bools:
    """For which lines of a frame an expression holds, (n,) bool; an unknown truth is none.

    Raises
    ------
    StoreError
        If it names a column that is not there, or is not one truth value a line.
    """
    import polars

    try:
        found = frame.select(condition.alias("holds"))["holds"]
    except polars.exceptions.PolarsError as error:
        msg = f"{condition} cannot be asked of the columns {', '.join(frame.columns)}: {error}"
        raise StoreError(msg) from error
    if found.dtype != polars.Boolean or len(found) != len(frame):
        msg = f"{condition} gives {len(found)} values of {found.dtype}; wanted one truth value for each of {len(frame)}"
        raise StoreError(msg)
    return np.asarray(found.fill_null(value=False).to_numpy(), dtype=np.bool_)
