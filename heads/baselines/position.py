"""Controls that know where a spot lies and nothing of what it looks like."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.table import Table
from ..contract import training_arrays
from ..linear.closed_form import ridge_path
from ..linear.ridge import RidgeDesign, choose_alpha, inner_groups

FARTHEST = 3.0
"""Standard deviations from the slide's middle within which spots are told apart."""


class Coordinates:
    """Ridge on a quadratic of the spot's position, centred and scaled per slide. Milliseconds."""

    context_um: float | None = None

    def fit(self, table: Table) -> Self:
        """Learn from position alone."""
        y, weights = training_arrays(table)
        self.path_ = ridge_path(_quadratic(table), y, weights)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.path_.predict(_quadratic(table), (5.0,))[0].astype(np.float32)


class SmoothCoordinates:
    """Ridge on a smooth field over the slide: the quadratic, and a grid of Gaussian bumps as wide as their spacing.

    Columns are scaled to unit spread over the training spots, so that the penalty weighs all alike. What any smooth map
    over position can know of a slide that was never measured: the rim, the middle, the side that sections of a cohort
    share. Milliseconds to seconds.

    Parameters
    ----------
    side
        Bumps along each axis, from -2 to 2 standard deviations of the slide's spots.
    alpha
        Penalty; None chooses on inner folds as `ridge` does.
    """

    context_um: float | None = None

    def __init__(self, *, side: int = 7, alpha: float | None = None) -> None:
        self.side, self.alpha = side, alpha

    def fit(self, table: Table) -> Self:
        """Learn from position alone."""
        y, weights = training_arrays(table)
        basis = self._basis(table)
        self.scale_ = 1.0 / np.maximum(basis.std(axis=0), 1e-6)
        design = RidgeDesign(basis * self.scale_, weights, inner_groups(table))
        cross = design.cross(y)
        self.alpha_, self.chosen_ = choose_alpha(design, cross, y, table=table, alpha=self.alpha)
        self.path_ = design.path(cross)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.path_.predict(self._basis(table) * self.scale_, (self.alpha_,))[0].astype(np.float32)

    def _basis(self, table: Table) -> NDArray[np.float32]:
        """Quadratic and bumps, (n, 5 + side^2)."""
        place = np.clip(_place(table), -FARTHEST, FARTHEST)
        centres, spacing = np.linspace(-2, 2, self.side, retstep=True)
        # A Gaussian of the plane is the product of one along each axis.
        along = np.exp(-0.5 * ((place[:, :, None] - centres) / spacing) ** 2)  # (n, 2, side)
        bumps = (along[:, 0, :, None] * along[:, 1, None, :]).reshape(len(place), -1)
        return np.concatenate([_quadratic(table), bumps], axis=1).astype(np.float32)


def _place(table: Table) -> Floats:
    """Positions z-scored per slide, (n, 2)."""
    out = np.empty((len(table), 2))
    for one in range(len(table.slide_ids)):
        here = table.slide == one
        position = table.center_um[here] - table.center_um[here].mean(axis=0)
        out[here] = position / np.maximum(position.std(axis=0), 1e-9)
    return out


def _quadratic(table: Table) -> Floats:
    """x, y, x^2, xy, y^2 of positions z-scored per slide, (n, 5)."""
    x, y = _place(table).T
    return np.stack([x, y, x * x, x * y, y * y], axis=1)
