"""Features of one key over the slides of a table, on disk until they are gathered."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from .mapped import RowMap, give_back
from .precision import to_single

log = logging.getLogger(__name__)

BLOCK_BYTES = 512 * 1024
"""Rows that are gathered before they are cast to float32: as many as stay in the cache."""

PASSING_BYTES = 16 * 2**20
"""Parts larger than this do not stay in memory when they are only read through."""

MOMENT_BYTES = 8 * 2**20
"""Rows whose moments are taken together, as float64: a slide of any size, and token grids, are standardised in that."""


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
    made_of
        Feature keys that the column was computed from, such as the views behind principal components; its own `key` is
        then a description and no feature key. Empty where the column is stored under its key.
    """

    key: str
    fingerprint: str
    parts: tuple[NDArray[Any], ...]
    shift: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None
    made_of: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Feature keys whose numbers the column holds: its own, or those that it was computed from."""
        return self.made_of or (self.key,)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.parts[0].shape[-1])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (dim,) or (tokens, dim)."""
        return tuple(self.parts[0].shape[1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows as stored; of the widest part where they differ."""
        return np.result_type(*{part.dtype for part in self.parts})

    @cached_property
    def _lengths(self) -> Ints:
        return np.array([len(part) for part in self.parts])

    @cached_property
    def _map(self) -> tuple[RowMap, Ints] | None:
        """Maps of the parts that can lie side by side, and the number there of each part's first row; -1 of others."""
        served = RowMap.served(self.parts, self.dtype)
        if not served:
            return None
        try:
            rows = RowMap([self.parts[one] for one in served])  # type: ignore[misc]
        except OSError as error:  # replaced, or no room: the maps made at opening are still those of its rows
            log.warning("%s: rows are gathered slide by slide, which is slower (%s)", self.key, error)
            return None
        first = np.full(len(self.parts), -1, dtype=np.int64)
        first[served] = rows.first
        return rows, first

    def raw(self, slide: Ints, row: Ints) -> NDArray[Any]:
        """Rows as stored, in the order asked for; they may repeat.

        Parameters
        ----------
        slide, row
            (m,) slide of the table, and row within its file.

        Raises
        ------
        IndexError
            If a slide has no such row.
        """
        out = np.empty((len(row), *self.row_shape), dtype=self.dtype)
        self._take(slide, row, out)
        return out

    def gather(self, slide: Ints, row: Ints, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Rows as float32, standardised where the column says so, written into `out` (m, ...) where it is given."""
        if out is None:
            out = np.empty((len(row), *self.row_shape), dtype=np.float32)
        between = (slice(None), *[None] * (len(self.row_shape) - 1), slice(None))  # tokens share their slide's numbers
        step = max(BLOCK_BYTES // (int(np.prod(self.row_shape)) * self.dtype.itemsize), 1)
        stored = np.empty((min(step, len(row)), *self.row_shape), dtype=self.dtype)
        for start in range(0, len(row), step):
            block = slice(start, min(start + step, len(row)))
            here, values = slide[block], out[block]
            part = stored[: len(here)]
            self._take(here, row[block], part)
            to_single(part, values)
            if self.shift is not None and self.scale is not None:
                values -= self.shift[here][between]
                values *= self.scale[here][between]
        return out

    @cached_property
    def moments(self) -> tuple[NDArray[np.float64], Floats, Floats]:
        """Rows (n_slides, 1), mean and mean square (n_slides, dim) of the rows as stored, read once."""
        found = [_moments(part) for part in self.parts]
        rows = np.array([n for n, _, _ in found], dtype=np.float64)[:, None]
        return rows, np.stack([mean for _, mean, _ in found]), np.stack([square for _, _, square in found])

    def select(self, slides: Ints) -> FeatureColumn:
        """The same features of some slides, in the order given."""
        return replace(
            self,
            parts=tuple(self.parts[one] for one in slides),
            shift=None if self.shift is None else self.shift[slides],
            scale=None if self.scale is None else self.scale[slides],
        )

    def _take(self, slide: Ints, row: Ints, out: NDArray[Any]) -> None:
        """Copy rows as stored into `out`, which is contiguous and of `dtype`."""
        outside = np.flatnonzero((row < 0) | (row >= self._lengths[slide]))
        if len(outside):
            one = outside[0]
            msg = f"{self.key}: row {row[one]} of slide number {slide[one]}, which has {self._lengths[slide[one]]} rows"
            raise IndexError(msg)
        slide, row = np.asarray(slide, dtype=np.int64), np.asarray(row, dtype=np.int64)
        if self._map is None:
            self._take_by_slide(slide, row, out, np.arange(len(row)))
            return
        rows, first = self._map
        apart = np.flatnonzero(first[slide] < 0)
        if not len(apart):
            rows.take(first[slide] + row, out)
            return
        together = np.flatnonzero(first[slide] >= 0)
        some = np.empty((len(together), *out.shape[1:]), dtype=out.dtype)
        rows.take(first[slide[together]] + row[together], some)
        out[together] = some
        self._take_by_slide(slide, row, out, apart)

    def _take_by_slide(self, slide: Ints, row: Ints, out: NDArray[Any], places: Ints) -> None:
        """Fill some places of `out`, one slide after another."""
        order = places[np.argsort(slide[places], kind="stable")]
        numbers, starts = np.unique(slide[order], return_index=True)
        for one, here in zip(numbers, np.split(order, starts[1:]), strict=True):
            out[here] = np.take(self.parts[one].view(np.ndarray), row[here], axis=0)


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
    n, mean, square = column.moments
    if within == "cohort":
        mean = np.broadcast_to((n * mean).sum(0) / n.sum(), mean.shape)
        square = np.broadcast_to((n * square).sum(0) / n.sum(), square.shape)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    rounding = max(float(np.finfo(part.dtype).eps) for part in column.parts) / 8  # what the stored type leaves of zero
    silent = deviation <= rounding * (np.abs(mean) + 1e-3)
    scale = np.where(silent, 0.0, 1.0 / np.where(silent, 1.0, deviation))
    return replace(column, shift=mean.astype(np.float32), scale=scale.astype(np.float32))


def _moments(part: NDArray[Any]) -> tuple[int, Floats, Floats]:
    """Rows, mean and mean square over rows (and tokens) of one slide, (dim,) in float64, read in steps."""
    dim = part.shape[-1]
    step = max(MOMENT_BYTES // (8 * int(np.prod(part.shape[1:]))), 1)
    total, square, rows = np.zeros(dim), np.zeros(dim), 0
    for start in range(0, len(part), step):
        values = np.asarray(part[start : start + step], dtype=np.float64).reshape(-1, dim)
        total += values.sum(0)
        square += (values**2).sum(0)
        rows += len(values)
        if part.nbytes > PASSING_BYTES:
            give_back(part)
    return rows, total / max(rows, 1), square / max(rows, 1)
