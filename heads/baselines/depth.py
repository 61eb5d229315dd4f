"""What total counts alone explain: predicted from morphology (a control), or looked up (a diagnostic).

Deeply sequenced spots lie in dense tissue, and their counts look different gene by gene even after normalisation. A
head that only learnt where counts are many scores above zero without knowing one gene from another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.errors import HeadError
from ...store.table import Table
from ..contract import training_arrays
from ..linear.closed_form import RidgePath, ridge_path
from ..linear.ridge import Ridge, design_of
from ..protocols.targets import centre_by_slide


class PredictedDepth:
    """`ridge` from features to the log depth of a spot, then one slope per gene on the depth that it predicts.

    Slopes are learnt on the depths that ridge predicts for patients (slides) it was not fitted on; with too few
    training slides for that, on the depths of its own training spots. Shares the decompositions of `ridge`.
    """

    def fit(self, table: Table) -> Self:
        """Learn the depth, then the slopes.

        Raises
        ------
        HeadError
            If the table has no depths.
        """
        y, weights = training_arrays(table)
        log_depth = _log_depth(table, what="learn to predict").astype(np.float32)
        self.ridge_ = Ridge().fit(replace(table, targets=log_depth))
        design = design_of(table)
        seen = self.ridge_.predict(table)
        if design.n_groups > 1:
            seen = design.held_out(design.cross(log_depth), self.ridge_.alpha_)
        self.slopes_ = _Slopes(seen, y, weights)
        self.chosen_ = self.ridge_.chosen_
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.slopes_.predict(self.ridge_.predict(table))


class Depth:
    """One slope per gene on the log of the spot's measured total: a diagnostic, no predictor has that number.

    Where it scores as high as the heads, the target is made of depth more than of biology. It needs a test table that
    carries `depth`, which the comparison gives to diagnostics alone. Milliseconds.
    """

    def fit(self, table: Table) -> Self:
        """Learn one slope per gene.

        Raises
        ------
        HeadError
            If the table has no depths.
        """
        y, weights = training_arrays(table)
        self.slopes_ = _Slopes(_log_depth(table, what="learn from"), y, weights)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel).

        Raises
        ------
        HeadError
            If the table has no depths.
        """
        return self.slopes_.predict(_log_depth(table, what="look up"))


class _Slopes:
    """Ridge with alpha 1 from one standardised number to every gene."""

    def __init__(self, value: Floats, y: Floats, weights: Floats) -> None:
        spread = float(value.std())
        self.scale = 1.0 / spread if spread > 1e-9 else 0.0
        self.path: RidgePath = ridge_path(value * self.scale, y, weights)

    def predict(self, value: Floats) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.path.predict(value * self.scale, (1.0,))[0].astype(np.float32)


def _log_depth(table: Table, *, what: str) -> Floats:
    """log1p of the total counts, centred per slide, (n, 1)."""
    if table.depth is None:
        msg = (
            f"this table has no total counts to {what}: training tables carry them, and of test tables only those that "
            "a comparison hands to a diagnostic; for slides that were never sequenced there are none"
        )
        raise HeadError(msg)
    return centre_by_slide(np.log1p(table.depth)[:, None], table.slide)
