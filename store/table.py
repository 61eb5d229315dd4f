"""A table: rows of a store with their features, counts and, once prepared, targets. What a head trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .arrays import Bools, Floats, Ints, Strings
from .errors import StoreError
from .files.column import FeatureColumn
from .spatial.neighbourhood import Neighbourhood
from .spatial.places import Places

if TYPE_CHECKING:
    import polars

    from .catalog_file import Entry


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


@dataclass(frozen=True)
class Table:
    """Rows of one or several slides.

    Attributes
    ----------
    slide_ids, patient_ids
        (n_slides,) of the slides.
    slide, row
        (n,) int32: which slide, and which row of its files.
    center_um
        (n, 2) float64 position on the slide.
    array
        (n, 2) int32 row and column on the array; None where a slide has none.
    columns
        Features by key, in the order of the views asked for.
    control_columns
        Features that ride along for controls and are no part of `features()`.
    token_columns
        Token grids and sub-tiles (n, tokens, dim) by key, for heads that mix tokens; no part of `features()`.
    counts
        (n, n_genes) raw counts over `genes`; None without expression.
    measured
        (n_slides, n_genes) bool, whether a slide measured a gene: a count of 0 of one that it did not measure says
        nothing. None where every slide measured all `genes`.
    depth
        (n,) total counts over **all** genes of the slide's file.
    targets
        (n, n_panel) float32 what a head learns: slide-centred where the protocol centres. None before preparation.
    target_offset
        (n_slides, n_panel) float32 what was taken off in training, or is predicted for a test slide.
    weights
        (n,) float32 of the rows in the loss.
    panel
        Names of the targets.
    """

    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    slide: NDArray[np.int32]
    row: NDArray[np.int32]
    center_um: Floats
    columns: dict[str, FeatureColumn]
    barcode: Strings
    array: NDArray[np.int32] | None = None
    control_columns: dict[str, FeatureColumn] = field(default_factory=dict)
    token_columns: dict[str, FeatureColumn] = field(default_factory=dict)
    counts: csr_matrix | None = None
    genes: Strings = field(default_factory=lambda: np.array([], dtype=np.str_))
    measured: Bools | None = None
    depth: Floats | None = None
    targets: NDArray[np.float32] | None = None
    target_offset: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    panel: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slide)

    @property
    def keys(self) -> tuple[str, ...]:
        """Feature keys of the table."""
        return tuple(self.columns)

    def features(
        self, key: str | None = None, *, rows: Ints | None = None, mask: Bools | None = None
    ) -> NDArray[np.float32]:
        """Gather features as float32, of one key or of all keys side by side, without a second copy.

        Parameters
        ----------
        key
            One of `keys`; all, side by side along the last axis, where not given.
        rows
            Rows of the table, in any order and shape, such as the (m, k) `index` of a neighbourhood; all where not
            given.
        mask
            Of the shape of `rows`; features are 0 where it is False.

        Returns
        -------
        ndarray
            float32 (*rows.shape, dim), or (*rows.shape, tokens, dim).

        Raises
        ------
        StoreError
            If the table has no such key, or keys of different token grids are wanted side by side.
        """
        rows = np.arange(len(self)) if rows is None else self._checked_rows(rows)
        columns = self._columns(key)
        tokens = columns[0].row_shape[:-1]
        flat = rows.reshape(-1)
        out = np.empty((len(flat), *tokens, sum(column.dim for column in columns)), dtype=np.float32)
        slide, row, start = self.slide[flat], self.row[flat], 0
        for column in columns:
            column.gather(slide, row, out=out[..., start : start + column.dim])
            start += column.dim
        if mask is not None:
            out[~np.asarray(mask, dtype=np.bool_).reshape(-1)] = 0.0
        return out.reshape(*rows.shape, *out.shape[1:])

    def _checked_rows(self, rows: Ints) -> Ints:
        """Rows as whole numbers inside the table.

        Raises
        ------
        StoreError
            If they are truth values, fractions, or outside.
        """
        rows = np.asarray(rows)
        if not np.issubdtype(rows.dtype, np.integer):
            if rows.size == 0:
                return rows.astype(np.int64)
            msg = f"rows of type {rows.dtype}: give numbers of rows (np.flatnonzero of truth values)"
            raise StoreError(msg)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            msg = f"rows from {rows.min()} to {rows.max()} of a table that has {len(self)}"
            raise StoreError(msg)
        return rows

    def _columns(self, key: str | None) -> list[FeatureColumn]:
        """Columns that lie side by side."""
        wanted = list(self.columns) if key is None else [key]
        if not wanted or wanted[0] not in self.columns:
            msg = f"the table has no features {key!r}; it has {', '.join(self.keys) or 'none'}"
            raise StoreError(msg)
        columns = [self.columns[one] for one in wanted]
        if len({column.row_shape[:-1] for column in columns}) > 1:
            shapes = ", ".join(f"{column.key} {column.row_shape}" for column in columns)
            msg = f"features of different token grids do not lie side by side: {shapes}; gather one key at a time"
            raise StoreError(msg)
        return columns

    @property
    def spots(self) -> polars.DataFrame:
        """One line a row: slide_id, patient_id, patch, barcode, x_um, y_um; array_row, array_col, depth where known."""
        import polars

        columns: dict[str, Any] = {
            "slide_id": np.array(self.slide_ids, dtype=np.str_)[self.slide],
            "patient_id": np.array(self.patient_ids, dtype=np.str_)[self.slide],
            "patch": self.row,
            "barcode": self.barcode,
            "x_um": self.center_um[:, 0],
            "y_um": self.center_um[:, 1],
        }
        if self.array is not None:
            columns |= {"array_row": self.array[:, 0], "array_col": self.array[:, 1]}
        if self.depth is not None:
            columns["depth"] = self.depth
        return polars.DataFrame(columns)

    def where(self, condition: polars.Expr) -> Table:
        """The rows for which an expression over `spots` holds; slides keep their numbers, also when no row is left.

        Examples
        --------
        >>> table.where(polars.col("depth") > 500)                       # doctest: +SKIP

        Raises
        ------
        StoreError
            If the expression is not one truth value a row.
        """
        return self.select_rows(np.flatnonzero(holds(condition, self.spots)))

    def select_rows(self, rows: Ints) -> Table:
        """Some rows, in the order given; slides keep their numbers, features stay on disk."""
        return replace(
            self,
            slide=self.slide[rows],
            row=self.row[rows],
            center_um=self.center_um[rows],
            array=None if self.array is None else self.array[rows],
            barcode=self.barcode[rows],
            counts=None if self.counts is None else self.counts[rows],
            depth=None if self.depth is None else self.depth[rows],
            targets=None if self.targets is None else self.targets[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def select_slides(self, slides: Sequence[int]) -> Table:
        """The rows of some slides, given by their number; slides are renumbered in the order given.

        Counts and targets of those slides are copied, features stay on disk.
        """
        chosen = np.asarray(slides, dtype=np.int64)
        rows = np.concatenate([np.flatnonzero(self.slide == one) for one in chosen])
        number = np.full(len(self.slide_ids), -1, dtype=np.int32)
        number[chosen] = np.arange(len(chosen))
        return replace(
            self.select_rows(rows),
            slide_ids=tuple(self.slide_ids[one] for one in chosen),
            patient_ids=tuple(self.patient_ids[one] for one in chosen),
            slide=number[self.slide[rows]],
            columns={key: column.select(chosen) for key, column in self.columns.items()},
            control_columns={key: column.select(chosen) for key, column in self.control_columns.items()},
            token_columns={key: column.select(chosen) for key, column in self.token_columns.items()},
            target_offset=None if self.target_offset is None else self.target_offset[chosen],
            measured=None if self.measured is None else self.measured[chosen],
        )

    def neighbours(self, k: int, *, radius_um: float = np.inf, self_included: bool = False) -> Neighbourhood:
        """The k nearest rows on the same slide, as rows of this table."""
        return self.places.nearest(k, radius_um=radius_um, self_included=self_included)

    @property
    def places(self) -> Places:
        """Where the rows are, for neighbours of every kind: nearest, within a radius, by ring, in a window."""
        return Places(self.center_um, self.slide, self.array)
