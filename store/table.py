"""A table: rows of a store with their features, counts and, once prepared, targets. What a head trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .arrays import Floats, Ints, Strings
from .errors import StoreError
from .neighbours import Neighbourhood, nearest_in_tissue


@dataclass(frozen=True)
class FeatureColumn:
    """Features of one key over all slides of a table, still on disk.

    Attributes
    ----------
    key
        The feature key.
    fingerprint
        What made the numbers.
    parts
        Per slide, (n_s, dim) or (n_s, tokens, dim), memory-mapped.
    shift, scale
        (n_slides, dim) float32; a gathered row is `(x - shift[slide]) * scale[slide]`. None leaves rows as stored.
    """

    key: str
    fingerprint: str
    parts: tuple[NDArray[Any], ...]
    shift: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.parts[0].shape[-1])

    def raw(self, slide: Ints, row: Ints) -> NDArray[Any]:
        """Rows as stored, in the order asked for; they may repeat.

        Parameters
        ----------
        slide, row
            (m,) slide of the table, and row within its file.
        """
        if len(self.parts) == 1:
            return np.take(self.parts[0].view(np.ndarray), row, axis=0)
        dtype = np.result_type(*(part.dtype for part in self.parts))
        out = np.empty((len(row), *self.parts[0].shape[1:]), dtype=dtype)
        in_order = bool((slide[1:] >= slide[:-1]).all())
        order = np.arange(len(slide)) if in_order else np.argsort(slide, kind="stable")
        edges = np.searchsorted(slide[order], np.arange(len(self.parts) + 1))
        whole = _as_items(out)
        for part, start, stop in zip(self.parts, edges[:-1], edges[1:], strict=True):
            here = order[start:stop]
            if not len(here):
                continue
            if part.dtype == dtype and in_order and 0 <= row[here].min() <= row[here].max() < len(part):
                # Straight into place. "clip" is what numpy needs to write without a buffer; the bounds were checked.
                np.take(_as_items(part), row[here], out=whole[start:stop], mode="clip")
            elif part.dtype == dtype:
                whole[here] = np.take(_as_items(part), row[here])
            else:
                out[here] = np.take(part.view(np.ndarray), row[here], axis=0)
        return out

    def gather(self, slide: Ints, row: Ints) -> NDArray[np.float32]:
        """Rows as float32, standardised where the column says so."""
        values = self.raw(slide, row).astype(np.float32)
        if self.shift is not None and self.scale is not None:
            between = (slice(None), *[None] * (values.ndim - 2), slice(None))  # tokens share their slide's statistics
            values -= self.shift[slide][between]
            values *= self.scale[slide][between]
        return values


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
    columns
        Features by key, in the order of the views asked for.
    control_columns
        Features that ride along for controls and are no part of `features()`.
    counts
        (n, n_genes) raw counts over `genes`, the genes measured on every slide; None without expression.
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
    control_columns: dict[str, FeatureColumn] = field(default_factory=dict)
    counts: csr_matrix | None = None
    genes: Strings = field(default_factory=lambda: np.array([], dtype=np.str_))
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

    def features(self, key: str | None = None, *, rows: Ints | None = None) -> NDArray[np.float32]:
        """Gather features as float32, (n, dim) of one key, or of all keys side by side.

        Parameters
        ----------
        key
            One of `keys`; all, concatenated along the last axis, where not given.
        rows
            (m,) rows of the table, in any order; all where not given.

        Raises
        ------
        StoreError
            If the table has no such key.
        """
        slide, row = (self.slide, self.row) if rows is None else (self.slide[rows], self.row[rows])
        if key is None:
            return np.concatenate([column.gather(slide, row) for column in self.columns.values()], axis=-1)
        if key not in self.columns:
            msg = f"the table has no features {key!r}; it has {', '.join(self.keys) or 'none'}"
            raise StoreError(msg)
        return self.columns[key].gather(slide, row)

    def select_rows(self, rows: Ints) -> Table:
        """Some rows, in the order given; slides keep their numbers, features stay on disk."""
        return replace(
            self,
            slide=self.slide[rows],
            row=self.row[rows],
            center_um=self.center_um[rows],
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
            columns={key: _select(column, chosen) for key, column in self.columns.items()},
            control_columns={key: _select(column, chosen) for key, column in self.control_columns.items()},
            target_offset=None if self.target_offset is None else self.target_offset[chosen],
        )

    def neighbours(self, k: int, *, radius_um: float = np.inf, self_included: bool = False) -> Neighbourhood:
        """The k nearest rows on the same slide, as rows of this table."""
        return nearest_in_tissue(self.center_um, k, slide=self.slide, radius_um=radius_um, self_included=self_included)


def standardise(column: FeatureColumn, *, within: str) -> FeatureColumn:
    """Have a column z-score its rows, with statistics of each slide or of all slides together.

    Parameters
    ----------
    within
        "slide" or "cohort".

    Notes
    -----
    Dimensions that do not vary get scale 0 rather than amplified rounding noise.
    """
    if within not in ("slide", "cohort"):
        msg = f"standardise within {within!r}: choose slide or cohort"
        raise StoreError(msg)
    moments = [_moments(part) for part in column.parts]
    n = np.array([rows for rows, _, _ in moments], dtype=np.float64)[:, None]  # (n_slides, 1)
    mean = np.stack([m for _, m, _ in moments])  # (n_slides, dim)
    square = np.stack([s for _, _, s in moments])
    if within == "cohort":
        mean = np.broadcast_to((n * mean).sum(0) / n.sum(), mean.shape)
        square = np.broadcast_to((n * square).sum(0) / n.sum(), square.shape)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    rounding = max(float(np.finfo(part.dtype).eps) for part in column.parts) / 8  # what the stored type leaves of zero
    silent = deviation <= rounding * (np.abs(mean) + 1e-3)
    scale = np.where(silent, 0.0, 1.0 / np.where(silent, 1.0, deviation))
    return replace(column, shift=mean.astype(np.float32), scale=scale.astype(np.float32))


def _as_items(rows: NDArray[Any]) -> NDArray[Any]:
    """View each row as one opaque item, so that moving rows is one copy each instead of a loop over elements."""
    flat = rows.view(np.ndarray).reshape(len(rows), -1)
    return flat.view(np.dtype((np.void, flat.shape[1] * flat.itemsize)))[:, 0]


def _moments(part: NDArray[Any], *, step: int = 65536) -> tuple[int, Floats, Floats]:
    """Rows, mean and mean square over rows (and tokens) of one slide, (dim,) in float64, read in steps."""
    dim = part.shape[-1]
    total, square, rows = np.zeros(dim), np.zeros(dim), 0
    for start in range(0, len(part), step):
        values = np.asarray(part[start : start + step], dtype=np.float64).reshape(-1, dim)
        total += values.sum(0)
        square += (values**2).sum(0)
        rows += len(values)
    return rows, total / max(rows, 1), square / max(rows, 1)


def _select(column: FeatureColumn, slides: Ints) -> FeatureColumn:
    return replace(
        column,
        parts=tuple(column.parts[one] for one in slides),
        shift=None if column.shift is None else column.shift[slides],
        scale=None if column.scale is None else column.scale[slides],
    )
