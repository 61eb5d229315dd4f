"""Raw counts of spots, as the rules for panels and targets take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from ...store.arrays import Floats, Ints, Strings
from ...store.errors import ProtocolError
from ...store.table import Table


@dataclass(frozen=True)
class SpotCounts:
    """Counts of the spots of some slides.

    Attributes
    ----------
    matrix
        (n, n_genes) raw counts, CSR, of the genes measured on every slide.
    genes
        (n_genes,) their names.
    depth
        (n,) total counts over **all** genes of the slide's file.
    slide
        (n,) number of the slide of each spot.
    center_um
        (n, 2) positions, x then y.
    array
        (n, 2) row and column on the array; None where a slide has none.
    """

    matrix: sparse.csr_matrix
    genes: Strings
    depth: Floats
    slide: Ints
    center_um: Floats
    array: Ints | None = None

    @classmethod
    def of(cls, table: Table) -> Self:
        """Counts of a table.

        Raises
        ------
        ProtocolError
            If the table has none.
        """
        if table.counts is None or table.depth is None:
            msg = "the table has no counts: comparing heads needs slides with measured expression"
            raise ProtocolError(msg)
        return cls(table.counts, table.genes, table.depth, table.slide, table.center_um, table.array)

    def __len__(self) -> int:
        return len(self.slide)

    def select_slides(self, slides: Sequence[int]) -> Self:
        """Counts of some slides, which keep their numbers; slides one after the other in the order given."""
        rows = np.concatenate([np.flatnonzero(self.slide == one) for one in slides])
        array = None if self.array is None else self.array[rows]
        return type(self)(
            self.matrix[rows], self.genes, self.depth[rows], self.slide[rows], self.center_um[rows], array
        )
