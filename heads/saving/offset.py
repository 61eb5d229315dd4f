"""The level of a slide that was never sequenced: what is added to a head's deviations to make whole values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.errors import HeadError
from ...store.table import Table
from ..comparison.preparation import MIN_SLIDES_FOR_OFFSET_RIDGE
from ..linear.slide_level import SlideRidge


@dataclass(frozen=True)
class SlideOffset:
    """Offsets of new slides, as `prepare` gives them to test slides.

    Attributes
    ----------
    rule
        "training mean", "ridge on slide-mean features", or "none: part of the prediction".
    mean
        (g,) of the training slides; zeros where the head predicts whole values.
    ridge
        From a slide's mean features to its level; None where the rule is another.
    """

    rule: str
    mean: Floats
    ridge: SlideRidge | None = None

    @classmethod
    def fit(cls, table: Table, *, centring: str) -> SlideOffset:
        """Learn from a prepared training table.

        Parameters
        ----------
        centring
            "slide" or "none", as the protocol says.

        Raises
        ------
        HeadError
            If the table has no offsets.
        """
        if table.target_offset is None:
            msg = "this table has no slide offsets: give the prepared training table that the head was fitted on"
            raise HeadError(msg)
        offsets = table.target_offset.astype(np.float64)
        if centring != "slide":
            return cls("none: part of the prediction", np.zeros(offsets.shape[1]))
        if len(offsets) < MIN_SLIDES_FOR_OFFSET_RIDGE:
            return cls("training mean", offsets.mean(axis=0))
        return cls("ridge on slide-mean features", offsets.mean(axis=0), SlideRidge.fit(table, offsets))

    def of(self, table: Table) -> NDArray[np.float32]:
        """Offsets (n_slides, g) of the slides of a table with the features of training."""
        if self.ridge is not None:
            return np.asarray(self.ridge.predict(table), dtype=np.float32)
        return np.tile(self.mean, (len(table.slide_ids), 1)).astype(np.float32)
