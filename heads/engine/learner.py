"""What all trainings of one fit share, and what each of them may see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.table import Table
from ..contract import training_arrays
from .anchor import Anchor, fit_anchor
from .module import HeadModule, Shape
from .neighbourhoods import kinds_of, look_alikes
from .rows import RowData

if TYPE_CHECKING:
    from .head import NeuralHead


@dataclass(frozen=True)
class Learner:
    """What all trainings on one table share.

    Attributes
    ----------
    y
        (n, g) targets.
    x
        (n, d) all views side by side, for anchor and look-alikes; (n, 0) where neither is wanted.
    base
        Rows and neighbours in tissue, without targets.
    inner_base
        (n, g) what the anchors of inner folds predict for the rows that these hold out.
    """

    head: NeuralHead
    table: Table
    y: NDArray[np.float32]
    x: NDArray[np.float32]
    base: RowData
    shape: Shape
    inner_base: Floats

    @classmethod
    def of(cls, head: NeuralHead, table: Table, *, rows: RowData) -> Learner:
        """Gather what a head needs of its training table, beside its rows."""
        y, _ = training_arrays(table)
        wanted = kinds_of(head.neighbours)
        columns = head.columns(table)
        shape = Shape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), y.shape[1])
        x = table.features() if head.anchor is not None or wanted[1] else np.empty((len(table), 0), dtype=np.float32)
        return cls(head, table, y, x, rows, shape, np.zeros(y.shape))

    def view(self, rows: Ints) -> tuple[RowData, Anchor | None]:
        """What a training on some rows sees: their look-alikes among themselves, and what their anchor leaves."""
        data, anchor, y = self.base, None, self.y
        if kinds_of(self.head.neighbours)[1]:
            found = look_alikes(self.table, self.head.rule, train=rows, vectors=self.x, seed=self.head.seed)
            data = replace(data, feature=found)
        if self.head.anchor is not None:
            anchor = fit_anchor(self.table, self.x, rows)
            y = y.copy()
            y[rows] -= anchor.held_out
        # A look-alike shows its targets, not what its anchor leaves: that anchor was fitted on the query's targets.
        return data.with_targets(y / self.head.spread_, shown=self.y / self.head.spread_), anchor


@dataclass(frozen=True)
class InnerFold:
    """A head trained on a part of its training rows.

    Attributes
    ----------
    rows, held
        Learnt from, and held out.
    data
        As the training saw it.
    modules
        One for every number of epochs that was tried.
    """

    rows: Ints
    held: Ints
    data: RowData
    modules: tuple[HeadModule, ...]


def as_unseen(data: RowData) -> RowData:
    """Rows as at prediction: their own targets out of sight, those of look-alikes in training rows still shown."""
    return replace(data, y=None, shown=None, reference=None if data.feature is None else data)
