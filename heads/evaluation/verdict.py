"""What a leaderboard says in a sentence: the best head, the control it must beat, the margin, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .aggregate import bootstrap_interval
from .leaderboard_rows import Row
from .numerals import plural, range_text, score_text
from .standings import Standing

Outcome = Literal["beats", "unclear", "fails"]

# From this many patients on a sentence gives their range, for nobody reads a longer list.
MAX_PATIENTS_LISTED = 5


@dataclass(frozen=True)
class Verdict:
    """The sentence on top of a leaderboard.

    Parameters
    ----------
    outcome
        ``"beats"``: the best head is above the best control, for every patient or with an interval of the margin
        above zero; ``"unclear"``: above on the mean only, or nothing to compare with; ``"fails"``: not above.
    sentence
        The verdict.
    notes
        What a careful reader would ask next.
    """

    outcome: Outcome
    sentence: str
    notes: tuple[str, ...]


def verdict(standing: Standing) -> Verdict:
    """Return what may honestly be concluded from one leaderboard."""
    scored = [row for row in standing.heads if row.score is not None]
    if not scored:
        return Verdict("unclear", "No head was scored.", ())
    best = scored[0]
    assert best.score is not None
    field = _field(len(scored), best)
    notes = [_selection_note(len(scored))] if len(scored) > 1 else []
    notes += [f"Mind what {standing.protocol_name} leaks: {leak}." for leak in _leaks(standing)]
    floor = standing.floor
    if floor is None:
        sentence = f"{field} scores {score_text(best.score)}{_spread(best)}; no control was scored, so nothing follows."
        return Verdict("unclear", _capital(sentence), tuple(notes))
    control = standing.controls[0]
    margin = best.score - floor
    if margin <= 0:
        sentence = (
            f"No head beats the controls: {field} scores {score_text(best.score)}{_spread(best)}, "
            f"{_distance(margin)} the best control, {control.label} ({score_text(floor)})."
        )
        return Verdict("fails", sentence, tuple(notes))
    sure, reasons = _certainty(best, control)
    opening = field if sure else f"No head is clearly above the controls: {field}"
    sentence = (
        f"{opening} scores {score_text(best.score)}{_spread(best)}, "
        f"{_distance(margin)} the best control, {control.label} ({score_text(floor)})."
    )
    return Verdict("beats" if sure else "unclear", _capital(sentence), (*reasons, *notes))


def _field(n_heads: int, best: Row) -> str:
    return f"{best.label}, the only head," if n_heads == 1 else f"the best of {n_heads} heads, {best.label},"


def _spread(row: Row) -> str:
    """Say how far the score is carried: interval, else patients, else folds."""
    patients = row.per_patient
    if row.interval is not None:
        return f" (95 % interval {range_text(*row.interval)} over {plural(len(patients), 'patient')})"
    if 0 < len(patients) < MAX_PATIENTS_LISTED:
        listed = ", ".join(f"{patient} {score_text(score)}" for patient, score in patients.items())
        return f" ({'patient' if len(patients) == 1 else 'patients'} {listed})"
    if row.fold_range is not None:
        return f" ({range_text(*row.fold_range)} over {plural(len(row.fold_scores), 'fold')})"
    return ""


def _distance(margin: float) -> str:
    size = abs(margin)
    if size == 0:
        return "level with"
    amount = "less than 0.001" if size < 0.0005 else score_text(size)
    return f"{amount} {'above' if margin > 0 else 'below'}"


def _certainty(best: Row, control: Row) -> tuple[bool, tuple[str, ...]]:
    """Compare head and control patient by patient, which is fairer than comparing two intervals."""
    ours, theirs = best.per_patient, control.per_patient
    patients = [patient for patient in ours if patient in theirs]
    if not patients:
        return False, ("There are no scores per patient, so nothing says how steady the margin is.",)
    differences = np.array([ours[patient] - theirs[patient] for patient in patients])  # (n_patients,)
    ahead = int((differences > 0).sum())
    note = f"It is ahead of that control for {ahead} of {plural(len(patients), 'patient')}."
    interval = bootstrap_interval(differences, patients)
    if interval is None:
        few = f"{note} That is too few patients for an interval."
        return ahead == len(patients), (few,)
    sure = interval[0] > 0
    chance = "" if sure else " It includes 0: the margin may be chance."
    mean = score_text(float(differences.mean()))
    return sure, (f"{note} The mean margin over patients is {mean} (95 % interval {range_text(*interval)}).{chance}",)


def _selection_note(n_heads: int) -> str:
    return f"The best of {n_heads} heads is picked by the scores shown here, so its own score is slightly optimistic."


def _leaks(standing: Standing) -> tuple[str, ...]:
    return tuple(leak.rstrip(".") for leak in standing.protocol.leaks) if standing.protocol is not None else ()


def _capital(sentence: str) -> str:
    """Start with a capital, unless the sentence starts with the name of a head."""
    return sentence[0].upper() + sentence[1:] if sentence.startswith("the ") else sentence
