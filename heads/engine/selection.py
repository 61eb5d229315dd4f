"""Epochs and gates chosen on inner folds: one training per candidate, since a cosine schedule cannot be cut short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.table import Table
from ..protocols.inner import inner_folds, mean_within_slide

EPOCHS = (5, 10, 20)
FIXED_EPOCHS = 10
MOST_INNER_FOLDS = 3


@dataclass(frozen=True)
class Choice:
    """What inner folds say.

    Attributes
    ----------
    epochs
        Chosen, given or fixed.
    told
        For the record.
    held
        Rows that were held out, in the order of `prediction`; None where nothing was.
    prediction
        (m, g) their predictions by the epochs chosen.
    """

    epochs: int
    told: dict[str, Any]
    held: Ints | None = None
    prediction: Floats | None = None


def choose_epochs(
    table: Table,
    truth: Floats,
    *,
    epochs: int | None,
    candidates: Sequence[int] = EPOCHS,
    held_needed: bool,
    predict: Callable[[Sequence[tuple[Ints, Ints]], Sequence[int]], list[list[Floats]]],
) -> Choice:
    """Choose the number of epochs by mean within-slide Pearson on held-out patients (slides); fewer win a tie.

    Parameters
    ----------
    truth
        (n, g) targets of the table.
    epochs
        A number to take as it is.
    held_needed
        Whether predictions of held-out rows are wanted even where the number is given.
    predict
        Given inner folds (train, held out) and candidates, the predictions of each fold's held-out rows by each.
    """
    selection = "fixed" if epochs is None else "given"
    if epochs is None and len(candidates) == 1:  # nothing to choose
        epochs = candidates[0]
    rule, folds = inner_folds(table)
    given: dict[str, Any] = {"epochs": FIXED_EPOCHS if epochs is None else epochs, "selection": selection}
    if rule == "fixed" or (epochs is not None and not held_needed):
        return Choice(given["epochs"], given)
    folds = merge_folds(folds, MOST_INNER_FOLDS)
    tried = tuple(candidates) if epochs is None else (epochs,)
    held = np.concatenate([rows for _, rows in folds])
    by_fold = predict(folds, tried)
    predictions = [np.concatenate([fold[i] for fold in by_fold]) for i in range(len(tried))]
    scores = [mean_within_slide(prediction, truth[held], table.slide[held]) for prediction in predictions]
    best = int(np.argmax(scores))
    told = given
    if epochs is None:
        scored = dict(zip(map(str, tried), scores, strict=True))
        told = {"epochs": tried[best], "selection": rule, "inner_scores": scored}
    return Choice(tried[best], told, held, predictions[best])


def merge_folds(folds: tuple[tuple[Ints, Ints], ...], most: int) -> tuple[tuple[Ints, Ints], ...]:
    """At most `most` inner folds, held-out groups joined in turn; groups stay whole."""
    if len(folds) <= most:
        return folds
    held = [np.sort(np.concatenate([rows for _, rows in folds[i::most]])) for i in range(most)]
    every = np.sort(np.concatenate([rows for _, rows in folds]))
    return tuple((np.setdiff1d(every, rows, assume_unique=True), rows) for rows in held)
