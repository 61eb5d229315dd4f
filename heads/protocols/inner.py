"""Choosing a value on inner folds: training patients (or slides) held out in turn, the outer test never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.table import Table
from .scores.metrics import score_slide
from .scores.scores import mean_of_defined
from .splits import inner_selection


def inner_folds(table: Table) -> tuple[str, tuple[tuple[Ints, Ints], ...]]:
    """Rule in use ("patients", "slides", "fixed"), and rows (train, held out) of each inner fold."""
    selection = inner_selection(table.slide_ids, table.patient_ids)
    folds = []
    for group in selection.groups:
        held = np.isin(table.slide, group)
        folds.append((np.flatnonzero(~held), np.flatnonzero(held)))
    return selection.rule, tuple(folds)


def within_slide_pearson(prediction: Floats, truth: Floats, slide: Ints) -> Floats:
    """Per slide and gene, (n_slides, n_genes); 0 where the prediction is constant, NaN where the truth is."""
    return np.stack([score_slide(prediction[slide == one], truth[slide == one]).pearson for one in np.unique(slide)])


def mean_within_slide(prediction: Floats, truth: Floats, slide: Ints) -> float:
    """The headline score of held-out rows: mean over slides of the mean over genes, undefined genes left out."""
    by_slide = mean_of_defined(within_slide_pearson(prediction, truth, slide))
    score = float(mean_of_defined(by_slide))
    return score if np.isfinite(score) else 0.0


def choose(
    candidates: Sequence[float],
    folds: Sequence[tuple[Ints, Ints]],
    *,
    truth: Floats,
    slide: Ints,
    predict: Callable[[Ints, Ints], Sequence[Floats]],
) -> tuple[float, tuple[float, ...]]:
    """The candidate of highest within-slide Pearson over all held-out slides; the first wins a tie.

    Parameters
    ----------
    candidates
        Values to choose from.
    truth
        (n, n_genes) targets.
    predict
        Given training rows and held-out rows, the predictions of every candidate for the held-out rows.

    Returns
    -------
    tuple
        The choice, and the score of each candidate.
    """
    totals, slides = np.zeros(len(candidates)), 0
    for train, held in folds:
        here = len(np.unique(slide[held]))
        for i, prediction in enumerate(predict(train, held)):
            totals[i] += here * mean_within_slide(prediction, truth[held], slide[held])
        slides += here
    scores = totals / max(slides, 1)
    return candidates[int(np.argmax(scores))], tuple(float(score) for score in scores)
