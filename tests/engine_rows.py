"""Rows for tests of the engine: a prepared table as networks see it."""

import numpy as np
import torch

from tissuary.heads.engine.module import HeadModule, Shape
from tissuary.heads.engine.rows import RowData
from tissuary.tests.head_tables import made_up


def row_data(table=None, **options):
    """Rows of a made-up table, with targets."""
    table = made_up(**options) if table is None else table
    return RowData.of(table, tuple(table.columns.values()), torch.device("cpu")).with_targets(table.targets)


class Linear(HeadModule):
    """A linear map, seeded."""

    def __init__(self, dim, genes, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.genes = torch.nn.Linear(dim, genes)

    def forward(self, batch):
        return self.genes(batch.own[0])


def shape_of(table):
    columns = tuple(table.columns.values())
    return Shape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), len(table.panel))


def every(data):
    return np.arange(len(data))
