"""What a leaderboard says in a sentence: the best head, the control it must beat, the margin, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .against_ridge import ridge_note
from .leaderboard_rows import Row
from .numerals import plural, range_text, score_text
from .paired import paired_values
from .standings import Standing

Outcome = Literal["beats", "ahead", "unclear", "fails"]

# From this many patients on a sentence gives their range, for nobody reads a longer list.
MAX_PATIENTS_LISTED = 5


@dataclass(frozen=True)
class Verdict:
    """The sentence on top of a leaderboard.

    Parameters
    ----------
    outcome
        ``"beats"``: the interval of the best head's margin over each patient's best control lies above zero;
        ``"ahead"``: it is above every control for every patient, and these are too few for an interval;
        ``"unclear"``: above on the mean only, or nothing to compare with; ``"fails"``: not above, or not above 0.
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
    notes = [ridge_note(best, scored)]
    notes += [_selection_note(len(scored))] if len(scored) > 1 else []
    notes += [f"Mind what {standing.protocol_name} leaks: {leak}." for leak in _leaks(standing)]
    floor = standing.floor
    if floor is None:
        sentence = f"{field} scores {score_text(best.score)}{_spread(best)}; no control was scored, so nothing follows."
        return Verdict("unclear", _capital(sentence), tuple(notes))
    control = standing.controls[0]
    margin = best.score - floor
    if margin <= 0 or best.score <= 0:
        sentence = (
            f"No head beats the controls: {field} scores {score_text(best.score)}{_spread(best)}, "
            f"{_distance(margin)} the best control, {control.label} ({score_text(floor)})."
        )
        return Verdict("fails", sentence, tuple(notes))
    outcome, reasons = _certainty(best, standing.controls)
    opening = f"No head is clearly above the controls: {field}" if outcome == "unclear" else field
    sentence = (
        f"{opening} scores {score_text(best.score)}{_spread(best)}, "
        f"{_distance(margin)} the best control, {control.label} ({score_text(floor)})."
    )
    return Verdict(outcome, _capital(sentence), (*reasons, *notes))


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


def _certainty(best: Row, controls: Sequence[Row]) -> tuple[Outcome, tuple[str, ...]]:
    """Compare the head, patient by patient, with the control that is best for that patient."""
    floor: dict[str, float] = {}
    for control in controls:
        for patient, score in control.per_patient.items():
            if not np.isnan(score):
                floor[patient] = max(score, floor.get(patient, score))
    patients = [patient for patient in best.per_patient if patient in floor]
    if not patients:
        return "unclear", ("There are no scores per patient, so nothing says how steady the margin is.",)
    ours, theirs = (np.array([scores[patient] for patient in patients]) for scores in (best.per_patient, floor))
    pair = paired_values(ours, theirs, patients)
    note = f"It is ahead of every control for {pair.wins} of {plural(len(patients), 'patient')}."
    if pair.interval is None:
        few = f"{note} That is no ground for an interval, so nothing is settled: more known patients are needed."
        return ("ahead" if pair.wins == len(patients) else "unclear"), (few,)
    sure = pair.interval[0] > 0
    chance = "" if sure else " It includes 0: the margin may be chance."
    mean, limits = score_text(pair.difference), range_text(*pair.interval)
    words = f"{note} The mean margin over patients is {mean} (95 % interval {limits}).{chance}"
    return ("beats" if sure else "unclear"), (words,)


def _selection_note(n_heads: int) -> str:
    return f"The best of {n_heads} heads is picked by the scores shown here, so its own score is slightly optimistic."


def _leaks(standing: Standing) -> tuple[str, ...]:
    return tuple(leak.rstrip(".") for leak in standing.protocol.leaks) if standing.protocol is not None else ()


def _capital(sentence: str) -> str:
    """Start with a capital, unless the sentence starts with the name of a head."""
    return sentence[0].upper() + sentence[1:] if sentence.startswith("the ") else sentence
