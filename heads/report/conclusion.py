"""The conclusion of a leaderboard in words: the best head, its difference from the best control, how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...store.choices import plural
from ..comparison.numbers import range_text, score_text
from ..comparison.results import RIDGE, Difference, difference_in
from ..protocols.scores.intervals import MIN_PATIENTS_FOR_INTERVAL
from .leaderboard import Leaderboard, Row

Outcome = Literal["beats", "ahead", "unclear", "fails"]

# From this many patients on a sentence gives their range, for nobody reads a longer list.
MAX_PATIENTS_LISTED = 5


@dataclass(frozen=True)
class Conclusion:
    """The conclusion of one leaderboard.

    Attributes
    ----------
    outcome
        ``"beats"``: the 95 % interval of the best head's difference from the best control lies above zero;
        ``"ahead"``: the best head is above every control for every patient, and patients are too few for an interval;
        ``"unclear"``: above on average only, or nothing to compare with; ``"fails"``: not above, or not above 0.
    sentence
        The conclusion.
    notes
        How sure it is, what the head adds to ridge, and what the protocol leaks.
    """

    outcome: Outcome
    sentence: str
    notes: tuple[str, ...]


def verdict(standing: Leaderboard) -> Conclusion:
    """Return what may honestly be concluded from one leaderboard."""
    scored = [row for row in standing.heads if row.score is not None]
    if not scored:
        return Conclusion("unclear", "No head was scored.", ())
    best = scored[0]
    assert best.score is not None
    name = _name(len(scored), best)
    notes = [ridge_note(best, scored)]
    notes += [_selection_note(len(scored))] if len(scored) > 1 else []
    notes += [f"Mind what {standing.protocol_name} leaks: {leak}." for leak in _leaks(standing)]
    floor = standing.floor
    if floor is None:
        sentence = f"{name} scores {score_text(best.score)}{_spread(best)}; no control was scored, so nothing follows."
        return Conclusion("unclear", _capital(sentence), tuple(notes))
    control = standing.controls[0]
    margin = best.score - floor
    gap = f"{_distance(margin)} the best control, {control.label} ({score_text(floor)})."
    if margin <= 0 or best.score <= 0:
        sentence = f"No head beats the controls: {name} scores {score_text(best.score)}{_spread(best)}, {gap}"
        return Conclusion("fails", sentence, tuple(notes))
    outcome, reason = _certainty(best, standing.controls)
    opening = f"No head is clearly above the controls: {name}" if outcome == "unclear" else name
    sentence = f"{opening} scores {score_text(best.score)}{_spread(best)}, {gap}"
    return Conclusion(outcome, _capital(sentence), (reason, *notes))


def ridge_note(best: Row, heads: Sequence[Row]) -> str:
    """Return what the best head adds to ridge regression on the same features, in a sentence or two."""
    if best.aggregate.get("head") == RIDGE:
        others = "" if len(heads) == 1 else ": no other head scores higher"
        return f"The best head is ridge itself{others}."
    found = difference_in(best.aggregate, "ridge")
    if found is None or found.difference is None:
        return f"Ridge on the same features was not scored, so nothing says what {best.label} adds to it."
    interval = f" ({interval_words(found)})" if found.low is not None else ""
    opening = (
        f"Against {found.head} on the same features, {best.label} is {_distance(found.difference)} it{interval} "
        f"and better for {found.wins} of {plural(found.n_patients, 'patient')}."
    )
    if found.low is None:
        return f"{opening} Without an interval it is open whether it adds anything to ridge."
    chance = " The interval includes 0: it may add nothing to ridge." if found.low <= 0 <= (found.high or 0.0) else ""
    return f"{opening}{chance}"


def interval_words(found: Difference) -> str:
    """Return a difference's interval and how it is computed."""
    how = "Student's t" if found.method == "t" else "bootstrap"
    limits = f"{score_text(found.low, signed=True)} to {score_text(found.high, signed=True)}"
    return f"95 % interval {limits}, {how} over {plural(found.n_patients, 'patient')}"


def _name(n_heads: int, best: Row) -> str:
    return f"{best.label}, the only head," if n_heads == 1 else f"the best of {n_heads} heads, {best.label},"


def _spread(row: Row) -> str:
    """Return how much the score varies: its interval, else its patients, else its folds."""
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


def _certainty(best: Row, controls: Sequence[Row]) -> tuple[Outcome, str]:
    """Judge the difference from the best control by its interval, or by counting patients where there is none."""
    wins, n = _patients_above(best, controls)
    count = f"{best.label} is better than every control for {wins} of {plural(n, 'patient')}."
    found = difference_in(best.aggregate, "control")
    if found is None or found.low is None:
        if not n:
            return "unclear", "There are no scores per patient, so nothing says how steady the difference is."
        few = f"{count} There is no interval below {MIN_PATIENTS_FOR_INTERVAL} known patients, so nothing is settled."
        return ("ahead" if wins == n else "unclear"), few
    chance = "" if found.low > 0 else " The interval includes 0: the difference may be chance."
    words = (
        f"The difference from {found.head} is {score_text(found.difference)} ({interval_words(found)}).{chance} {count}"
    )
    return ("beats" if found.low > 0 else "unclear"), words


def _patients_above(best: Row, controls: Sequence[Row]) -> tuple[int, int]:
    """Count the patients for whom the head is above every control, and those that can be compared."""
    highest: dict[str, float] = {}
    for control in controls:
        for patient, score in control.per_patient.items():
            highest[patient] = max(score, highest.get(patient, score))
    compared = [patient for patient in best.per_patient if patient in highest]
    return sum(best.per_patient[patient] > highest[patient] for patient in compared), len(compared)


def _selection_note(n_heads: int) -> str:
    return f"The best of {n_heads} heads is picked by the scores shown here, so its own score is slightly optimistic."


def _leaks(standing: Leaderboard) -> tuple[str, ...]:
    return tuple(leak.rstrip(".") for leak in standing.protocol.leaks) if standing.protocol is not None else ()


def _capital(sentence: str) -> str:
    """Start with a capital, unless the sentence starts with the name of a head."""
    return sentence[0].upper() + sentence[1:] if sentence.startswith("the ") else sentence
