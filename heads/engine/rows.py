"""Rows that networks learn from: features on the device where they fit and from the map where not, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...store.arrays import Floats, Ints
from ...store.files.column import FeatureColumn
from ...store.limits import memory_limit
from ...store.spatial.neighbourhood import Neighbourhood
from ...store.table import Table

RESIDENT_SHARE = 0.4
"""Of the device's memory that features may take; beyond it they stream from the map, batch by batch."""


@dataclass(frozen=True)
class RowFeatures:
    """Features of n rows, per key.

    Attributes
    ----------
    columns
        Features by key, on disk.
    slide, row
        (n,) where each row lies in them.
    resident
        Per key (n, dim) or (n, tokens, dim) on the device; None where rows stream.
    device
        Where `take` puts what it takes.
    """

    columns: tuple[FeatureColumn, ...]
    slide: Ints
    row: Ints
    resident: tuple[Tensor, ...] | None
    device: torch.device

    @classmethod
    def of(cls, table: Table, columns: tuple[FeatureColumn, ...], device: torch.device) -> RowFeatures:
        """Rows of a table, moved to the device where they fit."""
        size = sum(4 * len(table) * int(np.prod(column.row_shape)) for column in columns)
        resident = None
        if size <= RESIDENT_SHARE * _memory(device):
            resident = tuple(torch.from_numpy(c.gather(table.slide, table.row)).to(device) for c in columns)
        return cls(columns, table.slide, table.row, resident, device)

    @property
    def row_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one row of each key."""
        return tuple(column.row_shape for column in self.columns)

    def take(self, rows: Ints) -> tuple[Tensor, ...]:
        """Some rows, in the order asked for."""
        if self.resident is not None:
            index = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.device)
            return tuple(values.index_select(0, index) for values in self.resident)
        slide, row = self.slide[rows], self.row[rows]
        return tuple(torch.from_numpy(column.gather(slide, row)).to(self.device) for column in self.columns)


@dataclass(frozen=True)
class RowData:
    """All that training or prediction knows of n rows.

    Attributes
    ----------
    features
        Of the rows.
    slide
        (n,) number of the slide.
    place_um
        (n, 2) positions on the slides.
    weight
        (n,).
    y
        (n, g) targets; None in prediction.
    shown
        (n, g) targets as batches show them of training rows: where a head learns what its anchor leaves, the whole
        of them. None in prediction.
    space, feature
        Neighbours of every row; `feature` counts rows of `reference`.
    reference
        Training rows that look-alikes come from; the rows themselves where None.
    expression
        Whether batches show the targets of training rows.
    donor
        (n,) row whose neighbours in tissue a row has, where they were shuffled; itself where None.
    """

    features: RowFeatures
    slide: Ints
    place_um: Floats
    weight: Tensor
    y: Tensor | None = None
    space: Neighbourhood | None = None
    feature: Neighbourhood | None = None
    reference: RowData | None = None
    expression: bool = False
    shown: Tensor | None = None
    donor: Ints | None = None

    def __len__(self) -> int:
        return len(self.slide)

    @classmethod
    def of(cls, table: Table, columns: tuple[FeatureColumn, ...], device: torch.device) -> RowData:
        """Rows of a prepared table, without targets and neighbours."""
        weights = np.ones(len(table), dtype=np.float32) if table.weights is None else table.weights
        return cls(
            features=RowFeatures.of(table, columns, device),
            slide=table.slide.astype(np.int64),
            place_um=table.center_um,
            weight=torch.from_numpy(weights).to(device),
        )

    def with_targets(self, y: Floats, *, shown: Floats | None = None) -> RowData:
        """The same rows with targets (n, g), and with those that batches show; the same where not given."""
        device = self.features.device
        targets = torch.from_numpy(np.asarray(y, dtype=np.float32)).to(device)
        seen = targets if shown is None else torch.from_numpy(np.asarray(shown, dtype=np.float32)).to(device)
        return replace(self, y=targets, shown=seen)


def _memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_limit()
