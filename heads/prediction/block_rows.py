"""Rows of a block, read once for all that looks at them, so that the features of a slide never pile up in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...store.arrays import Ints
from ...store.feature_column import FeatureColumn
from ...store.file_map import give_back
from ...store.table import Table
from ..engine.saved_features import ROLES


def rows_in_memory(table: Table, rows: Ints) -> Table:
    """Some rows of a table of one slide, their features as stored, in memory; pages of the map are given back.

    Parameters
    ----------
    rows
        (m,) of the table.
    """
    found = {name: {key: _loaded(c, table, rows) for key, c in getattr(table, name).items()} for name in ROLES.values()}
    return replace(table.select_rows(rows), row=np.arange(len(rows), dtype=np.int32), **found)  # type: ignore[arg-type]


def standardised_as(prepared: Table, raw: Table, rows: Ints) -> Table:
    """The rows of a prepared table, features taken from where `raw` has them.

    Parameters
    ----------
    prepared
        Of the whole slide, as `SavedHead.prepare` makes it.
    raw
        Of `rows_in_memory`, or the whole slide's table, whose rows are then those of `prepared`.
    rows
        (m,) of the whole slide.
    """
    found = {name: _dressed(getattr(prepared, name), getattr(raw, name)) for name in ROLES.values()}
    return replace(prepared.select_rows(rows), row=raw.row, **found)  # type: ignore[arg-type]


def _loaded(column: FeatureColumn, table: Table, rows: Ints) -> FeatureColumn:
    part = column.parts[0]
    values = np.take(part.view(np.ndarray), table.row[rows], axis=0)
    give_back(part)
    return replace(column, parts=(values,))


def _dressed(columns: Mapping[str, FeatureColumn], raw: Mapping[str, FeatureColumn]) -> dict[str, FeatureColumn]:
    return {key: replace(column, parts=raw[key].parts) for key, column in columns.items()}
