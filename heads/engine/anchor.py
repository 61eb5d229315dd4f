"""The ridge anchor: closed-form predictions that a network corrects, cross-fitted so that residuals are honest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints, Strings
from ...store.errors import HeadError
from ...store.table import Table
from ..contract import training_arrays
from ..linear.closed_form import RidgePath
from ..linear.ridge import RidgeDesign, choose_alpha
from ..protocols.inner import within_slide_pearson
from ..protocols.scores.scores import mean_of_defined
from ..protocols.splits import inner_selection

ANCHORS = (None, "ridge")
GATES = (0.0, 0.5, 1.0)
FIXED_GATE = 0.5
"""Of every gene where there are too few training slides to choose one."""

FEWEST = 3
"""Patients, or slides, that a standard error is taken over."""


@dataclass(frozen=True)
class Anchor:
    """Ridge fitted on some rows.

    Attributes
    ----------
    path, alpha
        The fit, and its penalty.
    held_out
        (n_rows, g) predictions of the same rows by fits that left the row's group out.
    groups
        What was left out: "patients", "slides" or "blocks".
    """

    path: RidgePath
    alpha: float
    held_out: Floats
    groups: str

    def predict(self, x: NDArray[np.float32]) -> Floats:
        """Predict (m, g) for features (m, d)."""
        return self.path.predict(x, (self.alpha,))[0]


def check_anchor(anchor: str | None) -> None:
    """See that an anchor exists.

    Raises
    ------
    HeadError
        If it does not.
    """
    if anchor not in ANCHORS:
        msg = f"anchor={anchor!r}: choose ridge, or None"
        raise HeadError(msg)


def fit_anchor(table: Table, x: NDArray[np.float32], rows: Ints, *, alpha: float | None = None) -> Anchor:
    """Ridge on whole slides of a training table, and cross-fitted predictions of the same rows.

    Parameters
    ----------
    x
        (n, d) features of all rows of the table.
    rows
        All rows of some of its slides, ascending: what is chosen or fitted looks at no other.
    alpha
        Penalty of all fits; where None, what `ridge` would choose on these rows.
    """
    y, weights = training_arrays(table)
    groups, group = cross_fit_groups(table, rows)
    design = RidgeDesign(x[rows], weights[rows], group)
    cross = design.cross(y[rows])
    if groups == "blocks":
        alpha = float(x.shape[1]) if alpha is None else alpha
    else:
        some = table.select_slides(np.unique(table.slide[rows]).tolist())
        alpha = choose_alpha(design, cross, y[rows], table=some, alpha=alpha)[0]
    return Anchor(design.path(cross), alpha, design.held_out(cross, alpha), groups)


def cross_fit_groups(table: Table, rows: Ints) -> tuple[str, Ints]:
    """What cross-fitting leaves out, and the group (m,) of each row, from 0 on.

    Patients from three on, else slides from three on, else a quarter of every slide's spots, lying together.
    """
    slides = np.unique(table.slide[rows])
    chosen = inner_selection([table.slide_ids[s] for s in slides], [table.patient_ids[s] for s in slides])
    group = np.zeros(len(rows), dtype=np.int64)
    if chosen.groups:
        for number, held in enumerate(chosen.groups):
            group[np.isin(table.slide[rows], slides[list(held)])] = number
        return chosen.rule, group
    for slide in slides:
        here = np.flatnonzero(table.slide[rows] == slide)
        group[here] = quarters(table.center_um[rows[here]])
    return "blocks", np.unique(group, return_inverse=True)[1]


def quarters(center_um: Floats) -> Ints:
    """Quarter 0 to 3 of each of (n, 2) positions: halves along x, each halved along y, equal to a row."""
    quarter = np.empty(len(center_um), dtype=np.int64)
    for i, half in enumerate(np.array_split(np.lexsort((center_um[:, 1], center_um[:, 0])), 2)):
        for j, part in enumerate(np.array_split(half[np.argsort(center_um[half, 1], kind="stable")], 2)):
            quarter[part] = 2 * i + j
    return quarter


def choose_gates(base: Floats, correction: Floats, truth: Floats, slide: Ints, *, patient: Strings) -> Floats:
    """How much of a network's correction each gene keeps, (g,): 0, 0.5 or 1.

    The gate of highest mean within-slide Pearson over held-out patients (slides where patients are fewer than three),
    unless it gains less over 0 than the standard error of that gain, or the gene is defined for fewer than three of
    them: a gate that noise opens costs accuracy on every slide to come.

    Parameters
    ----------
    base, correction, truth
        (n, g) of held-out rows.
    slide, patient
        (n,).
    """
    scores = np.stack([within_slide_pearson(base + gate * correction, truth, slide) for gate in GATES])  # (3, s, g)
    of_slide = np.array([patient[slide == one][0] for one in np.unique(slide)])
    unit = of_slide if len(np.unique(of_slide)) >= FEWEST else np.arange(len(of_slide))
    by_slide = scores - scores[:1]
    gain = np.stack([mean_of_defined(by_slide[:, unit == one].swapaxes(1, 2)) for one in np.unique(unit)])  # (u, 3, g)
    known = np.isfinite(gain)
    n = known.sum(axis=0)  # (3, g)
    mean = np.where(known, gain, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(known, gain - mean, 0.0) ** 2
    error = np.sqrt(squares.sum(axis=0) / np.maximum(n * (n - 1), 1))
    kept = np.where((n >= FEWEST) & (mean > error), mean, 0.0)
    gates: Floats = np.array(GATES)[np.argmax(kept, axis=0)]
    return gates
