"""The vectors of an index, made from the feature files when they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..files.column import FeatureColumn
from .exact import unit_rows
from .flat import Groups, product_error, top_in_blocks


class StoredVectors:
    """Standardised rows of a column as a `FlatIndex` that keeps nothing in memory.

    Parameters
    ----------
    column
        With the index's `shift` and `scale`; slides in the order of the index.
    slide, row
        (n,) where each row of the index lies.
    unit
        Whether rows are scaled to length one.
    longest
        Length of the longest vector.
    """

    def __init__(self, column: FeatureColumn, slide: Ints, row: Ints, *, unit: bool, longest: float = 1.0) -> None:
        self.column, self.slide, self.row, self.unit, self.longest = column, slide, row, unit, longest

    @property
    def ntotal(self) -> int:
        """See `FlatIndex`."""
        return len(self.slide)

    @property
    def rounding(self) -> float:
        """See `FlatIndex`."""
        return product_error(self.column.dim) * self.longest

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`; one pass over the files."""
        return top_in_blocks(self.block, self.ntotal, queries, k=k, groups=groups)

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """See `FlatIndex`."""
        values = self.column.gather(self.slide[rows], self.row[rows])
        return unit_rows(values) if self.unit else values

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """The vectors of rows `start` to `stop`."""
        return self.vectors(np.arange(start, min(stop, self.ntotal)))
