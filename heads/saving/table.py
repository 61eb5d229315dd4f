"""Training rows that a head looks things up in, as plain values: features as they are stored, of those rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...store.files.column import FeatureColumn
from ...store.table import Table

COLUMNS = ("columns", "token_columns")


def packed_table(table: Table) -> dict[str, Any]:
    """Slides, places and features of a table's rows; counts, depths and targets stay behind."""
    columns = {kind: {key: _packed(column, table) for key, column in getattr(table, kind).items()} for kind in COLUMNS}
    return {
        "slide_ids": table.slide_ids,
        "patient_ids": table.patient_ids,
        "slide": table.slide,
        "center_um": table.center_um,
        "array": table.array,
        **columns,
    }


def unpacked_table(parts: dict[str, Any]) -> Table:
    """The table again; rows are numbered anew within their slides."""
    slide = np.asarray(parts["slide"], dtype=np.int32)
    row = np.empty(len(slide), dtype=np.int32)
    for one in range(len(parts["slide_ids"])):
        here = slide == one
        row[here] = np.arange(here.sum())
    columns, tokens = ({key: _unpacked(key, one, slide) for key, one in parts[kind].items()} for kind in COLUMNS)
    return Table(
        slide_ids=parts["slide_ids"],
        patient_ids=parts["patient_ids"],
        slide=slide,
        row=row,
        center_um=parts["center_um"],
        array=parts["array"],
        barcode=np.arange(len(slide)).astype(np.str_),
        columns=columns,
        token_columns=tokens,
    )


def _packed(column: FeatureColumn, table: Table) -> dict[str, Any]:
    return {
        "fingerprint": column.fingerprint,
        "rows": column.raw(table.slide, table.row),
        "shift": column.shift,
        "scale": column.scale,
    }


def _unpacked(key: str, one: dict[str, Any], slide: np.ndarray) -> FeatureColumn:
    n_slides = int(slide.max(initial=-1)) + 1 if one["shift"] is None else len(one["shift"])
    parts = tuple(one["rows"][slide == number] for number in range(n_slides))
    return FeatureColumn(key, one["fingerprint"], parts, one["shift"], one["scale"])
