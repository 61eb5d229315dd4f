"""From a slide's mean features to a slide's mean profile: what a slide says as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.files.column import FeatureColumn
from ...store.table import Table
from .closed_form import RidgePath, ridge_path

FARTHEST = 3.0
"""Standard deviations at which an unseen slide's mean features are cut off: beyond it a line is a guess."""

STEP = 8192
"""Rows of a slide that are averaged together: a slide of millions is not held at once."""

DEAD = 0.01
"""A feature whose slide means spread less than this fraction of its spread within slides carries no slide level."""


@dataclass(frozen=True)
class SlideRidge:
    """Ridge with alpha = number of features on z-scored slide means.

    Attributes
    ----------
    mean, scale
        (d,) of the training slides' mean features; scale 0 where a feature is dead.
    path
        The decomposition.
    """

    mean: Floats
    scale: Floats
    path: RidgePath

    @classmethod
    def fit(cls, table: Table, levels: Floats) -> Self:
        """Learn levels (n_slides, g) from the slides of a table."""
        means, within = slide_features(table)
        spread = means.std(axis=0)
        dead = spread <= DEAD * within
        scale = np.where(dead, 0.0, 1.0 / np.where(dead, 1.0, spread))
        x = (means - means.mean(axis=0)) * scale
        return cls(means.mean(axis=0), scale, ridge_path(x, levels, np.ones(len(x))))

    def predict(self, table: Table) -> Floats:
        """Levels (n_slides, g)."""
        x = np.clip((slide_features(table)[0] - self.mean) * self.scale, -FARTHEST, FARTHEST)
        return self.path.predict(x, (float(x.shape[1]),))[0]


def slide_features(table: Table) -> tuple[Floats, Floats]:
    """Means of the unstandardised features of each slide (n_slides, d), and their spread within slides (d,)."""
    raw = [replace(column, shift=None, scale=None) for column in table.columns.values()]
    means, variances = [], []
    for one in range(len(table.slide_ids)):
        here = np.flatnonzero(table.slide == one)
        mean, variance = _moments(raw, table, here[:STEP])
        for start in range(STEP, len(here), STEP):
            more = _moments(raw, table, here[start : start + STEP])
            share = min(STEP, len(here) - start) / min(start + STEP, len(here))
            away = more[0] - mean
            variance = (1 - share) * variance + share * more[1] + share * (1 - share) * away**2
            mean = mean + share * away
        means.append(mean)
        variances.append(variance)
    return np.stack(means), np.sqrt(np.mean(variances, axis=0))


def _moments(columns: list[FeatureColumn], table: Table, rows: Ints) -> tuple[Floats, Floats]:
    """Mean and variance (d,) of some rows over all columns side by side."""
    parts = [column.gather(table.slide[rows], table.row[rows]) for column in columns]
    x = np.concatenate(parts, axis=-1).astype(np.float64)
    return x.mean(axis=0), x.var(axis=0)
