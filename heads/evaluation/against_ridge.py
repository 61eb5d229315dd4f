"""What the best head adds to ridge regression on the same features: the paired difference, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .leaderboard_rows import Row
from .numerals import plural, range_text, score_text
from .paired import PairedDifference, paired_values

RIDGE = "ridge"


def paired_rows(first: Row, second: Row) -> PairedDifference | None:
    """Return the difference of two rows over the patients that both have a score for, None without any.

    Records keep a score per patient and none per slide, so that each patient weighs alike here.
    """
    patients = [patient for patient in first.per_patient if patient in second.per_patient]
    if not patients:
        return None
    ours, theirs = (np.array([row.per_patient[patient] for patient in patients]) for row in (first, second))
    return paired_values(ours, theirs, patients)


def ridge_note(best: Row, heads: Sequence[Row]) -> str:
    """Return one sentence or two on what the best head adds to ridge with the same preprocessing and folds."""
    if best.aggregate.get("head") == RIDGE:
        others = "" if len(heads) == 1 else ": no other head adds to it on the mean"
        return f"The best head is ridge itself{others}."
    ridge = next((row for row in heads if _comparable(row, best)), None)
    if ridge is None:
        return (
            f"No ridge with the same preprocessing and folds was scored, so nothing says what {best.label} adds to it."
        )
    pair = paired_rows(best, ridge)
    if pair is None:
        return f"There are no scores per patient to compare {best.label} with ridge ({score_text(ridge.score)})."
    n = len(pair.per_patient)
    gap, way = score_text(abs(pair.difference)), "below" if pair.difference < 0 else "above"
    opening = (
        f"Against ridge with the same preprocessing ({score_text(ridge.score)}) it is {gap} {way} "
        f"on the mean over patients, and ahead for {pair.wins} of {plural(n, 'patient')}"
    )
    if pair.interval is None:
        return f"{opening}. That is no ground for an interval: whether it adds anything to ridge is not settled."
    chance = "" if pair.settled else " It includes 0: it may add nothing to ridge."
    return f"{opening} (95 % interval of the difference {range_text(*pair.interval)}).{chance}"


def _comparable(row: Row, best: Row) -> bool:
    """Whether a row is ridge in its default mode, prepared and split as the best head was."""
    return (
        row.score is not None
        and row.aggregate.get("head") == RIDGE
        and row.aggregate.get("mode") in (None, "", "default")
        and row.aggregate.get("preprocessing") == best.aggregate.get("preprocessing")
        and set(row.fold_scores) == set(best.fold_scores)
    )
