"""Rows for tests of the engine: a prepared table as networks see it."""

import numpy as np
import torch
from torch.utils._pytree import tree_map

from tissuary.heads.engine.network import HeadModule, NetworkShape
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.stacked import train_all
from tissuary.heads.engine.training import NetworkRun
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
    return NetworkShape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), len(table.panel))


def every(data):
    return np.arange(len(data))


class InFloat64(NetworkRun):
    """A run whose network and batches are in float64."""

    @classmethod
    def of(cls, run):
        run.module.double()
        return cls(run.module, run.data, run.rows, run.options, run.seed)

    def batches(self):
        for epoch, batch in super().batches():
            yield epoch, tree_map(lambda x: x.double() if x is not None and x.is_floating_point() else x, batch)


def assert_stacked_is_one_by_one(runs):
    """Train two sets of the same runs in float64, alone and stacked; returns the runs and their losses.

    Why float64: where a gradient is zero in truth (a bias before a softmax) it is rounding in practice, and Adam
    divides it by its own size plus 1e-8. float32 leaves 1e-9 to 1e-8 there, so that such weights go by up to a whole
    rate a step, one way alone and another way stacked, as the processor adds. float64 leaves about 1e-17, a billionth
    of Adam's 1e-8: weights differ by at most steps x rate x 1e-7, and losses, of order one, by less than 1e-8.
    """
    alone, together = ([InFloat64.of(run) for run in runs()] for _ in range(2))
    losses = train_all(alone, together=False)
    stacked = train_all(together, together=True)
    assert [len(curve) for curve in stacked] == [len(curve) for curve in losses]
    for one, other in zip(losses, stacked, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-8)
    for one, other in zip(alone, together, strict=True):
        assert not other.module.training
        most = one.steps * one.options.lr * 1e-7
        for (name, p), q in zip(one.module.named_parameters(), other.module.parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=0, atol=most, msg=lambda said, name=name: f"{name}: {said}")
    return together, losses
