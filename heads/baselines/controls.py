"""Controls: heads that see no morphology, or only trivial morphology. A score means something only above them."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats
from ...store.errors import HeadError
from ...store.table import Table
from ..contract import training_arrays
from ..linear.closed_form import ridge_path
from ..linear.ridge import Ridge
from ..linear.slide_level import SlideRidge

DENSITY = "haematoxylin@"


class Mean:
    """The training mean of every gene: constant everywhere."""

    def fit(self, table: Table) -> Self:
        """Learn nothing: the offset of a slide is the training mean already."""
        self.n_genes_ = training_arrays(table)[0].shape[1]
        self.level_ = _offsets(table).mean(axis=0)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return np.asarray((self.level_ - _offsets(table))[table.slide], dtype=np.float32)


class PatientMean:
    """The mean profile of the same patient's training slides; the training mean where there is none.

    Only a protocol that lets a patient span train and test gives it something to know.
    """

    def fit(self, table: Table) -> Self:
        """Average slide profiles by patient."""
        offsets = _offsets(table)
        patients = np.array(table.patient_ids)
        self.overall_ = offsets.mean(axis=0)
        self.profiles_ = {str(p): offsets[patients == p].mean(axis=0) for p in np.unique(patients)}
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        level = np.stack([self.profiles_.get(patient, self.overall_) for patient in table.patient_ids])
        return (level - _offsets(table))[table.slide]


class SlideFeatureMean:
    """Ridge from a slide's mean feature vector to its mean profile: one value per slide.

    What it gains on pooled scores is slide identity, not morphology of spots.
    """

    context_um: float | None = None

    def fit(self, table: Table) -> Self:
        """Learn from one row per slide."""
        self.model_ = SlideRidge.fit(table, _offsets(table))
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        level = self.model_.predict(table).astype(np.float32)
        return (level - _offsets(table))[table.slide]


class Density:
    """Ridge on one number, the mean haematoxylin density of the patch: the floor that morphology must beat."""

    def fit(self, table: Table) -> Self:
        """Learn one slope per gene."""
        y, weights = training_arrays(table)
        self.path_ = ridge_path(_density(table), y, weights)
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.path_.predict(_density(table), (1.0,))[0].astype(np.float32)


class Shuffled:
    """`ridge` on targets shuffled among the spots of each slide: what the pipeline scores when nothing is there.

    Every gene is shuffled on its own. Shuffling whole profiles would leave the genes' co-expression in place, so that
    all of them inherit one random direction of feature space, and the mean over genes would be a single draw. Levels of
    slides are taken off before and one level put back: where a protocol leaves them in, what separates slides would
    still be learnt, and shows within slides too.

    Parameters
    ----------
    seed
        Of the shuffle.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, table: Table) -> Self:
        """Shuffle targets within slides, then fit `ridge`."""
        targets = training_arrays(table)[0].copy()
        rng, level = np.random.default_rng(self.seed), targets.mean(axis=0)
        for one in range(len(table.slide_ids)):
            here = table.slide == one
            targets[here] = level + rng.permuted(targets[here] - targets[here].mean(axis=0), axis=0)
        self.ridge_ = Ridge().fit(replace(table, targets=targets))
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return self.ridge_.predict(table)


def _offsets(table: Table) -> NDArray[np.float32]:
    if table.target_offset is None:
        msg = "this table has no slide offsets: prepare it with tissuary.heads.comparison.preparation.prepare"
        raise HeadError(msg)
    return table.target_offset


def _density(table: Table) -> Floats:
    keys = [key for key in table.control_columns if key.startswith(DENSITY)]
    if not keys:
        msg = f"the table has no features {DENSITY}<view>: featurize the slides again, which stores them"
        raise HeadError(msg)
    return table.control_columns[keys[0]].gather(table.slide, table.row)
