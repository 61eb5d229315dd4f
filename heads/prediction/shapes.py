"""What a spot or tile looks like on the slide: a square as wide as its grid's stride, or the circle of an array."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.naming import SPOTS

_STRIDE = re.compile(r"grid-(?P<stride>\d+(?:\.\d+)?)um")

SPOT_SHARE = 0.5
"""Diameter of a spot over the distance to the next: 55 of 100 um (Visium), 100 of 200 um (legacy ST)."""

CORNERS = 16
"""Of the polygon that a circle is drawn as."""


@dataclass(frozen=True)
class Shape:
    """Shape of every spot or tile of a patch set.

    Attributes
    ----------
    kind
        "square" or "circle".
    side_um
        Side, or diameter.
    """

    kind: str
    side_um: float

    def outline(self) -> NDArray[np.float64]:
        """Corners (c, 2) around the centre in um, clockwise on the screen, the first one again at the end."""
        if self.kind == "square":
            return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * self.side_um / 2
        turn = 2 * np.pi * np.arange(CORNERS + 1) / CORNERS
        outline = np.stack([np.cos(turn), np.sin(turn)], axis=1) * self.side_um / 2
        outline[-1] = outline[0]
        return outline


def shape_of(patches: str, center_um: Floats, *, fov_um: float) -> Shape:
    """Shape of the patches of a slide.

    Parameters
    ----------
    patches
        Name of the patch set; grids carry their stride in it, so that overlapping tiles are drawn side by side.
    center_um
        (n, 2) positions.
    fov_um
        Side of the field that features saw: that of a lone spot.

    Examples
    --------
    >>> shape_of("grid-56um-tile112um", np.zeros((1, 2)), fov_um=112.0)
    Shape(kind='square', side_um=56.0)
    """
    match = _STRIDE.match(patches)
    if match:
        return Shape("square", float(match["stride"]))
    apart = _spacing_um(center_um) or fov_um
    return Shape("circle", apart * SPOT_SHARE) if patches == SPOTS else Shape("square", apart)


def _spacing_um(center_um: Floats) -> float:
    """Median distance to the nearest other patch; 0 where there is none."""
    from scipy.spatial import cKDTree

    if len(center_um) < 2:
        return 0.0
    return float(np.median(cKDTree(center_um).query(center_um, k=2)[0][:, 1]))
