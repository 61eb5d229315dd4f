"""Where the rows of a table or of a slide are, and every kind of neighbour that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import StoreError
from .neighbourhood import Neighbourhood, nearest_in_tissue, within_radius
from .rings import rings
from .window import lattice


@dataclass(frozen=True)
class Places:
    """Positions of n rows; neighbours are rows of the same numbering, and always of the same slide.

    Attributes
    ----------
    center_um
        (n, 2) positions.
    slide
        (n,) slide of each row; None for one slide.
    array
        (n, 2) row and column on the array, where known.
    """

    center_um: Floats
    slide: Ints | None = None
    array: NDArray[np.int32] | Ints | None = None

    def nearest(self, k: int, *, radius_um: float = np.inf, self_included: bool = False) -> Neighbourhood:
        """The k nearest rows; see `neighbours.nearest_in_tissue`."""
        return nearest_in_tissue(self.center_um, k, slide=self.slide, radius_um=radius_um, self_included=self_included)

    def within_radius(
        self, radius_um: float, *, k_max: int | None = None, self_included: bool = False
    ) -> Neighbourhood:
        """All rows within a radius; see `neighbours.within_radius`."""
        return within_radius(self.center_um, radius_um, slide=self.slide, k_max=k_max, self_included=self_included)

    def rings(self, edges_um: Sequence[float], per_ring: int) -> Neighbourhood:
        """Rows by ring, in all directions; see `rings.rings`."""
        return rings(self.center_um, edges_um, per_ring, slide=self.slide)

    def lattice(self, k: int, *, kind: str = "auto", self_included: bool = True) -> Neighbourhood:
        """The window around each row on its array; see `lattice.lattice`.

        Raises
        ------
        StoreError
            If array positions are not known.
        """
        if self.array is None:
            msg = "no array positions are known for these rows: take nearest, within_radius or rings, which need none"
            raise StoreError(msg)
        return lattice(
            self.array, k, center_um=self.center_um, kind=kind, slide=self.slide, self_included=self_included
        )
