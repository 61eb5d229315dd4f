"""Difference of each head from ridge and from the best control, over the same test slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .aggregate import ScoredFold
from .comparison import Record
from .contestants import DEFAULT
from .lines import Line, line_of_record
from .numerals import number
from .paired import paired_difference

RIDGE = "ridge"


@dataclass(frozen=True)
class Difference:
    """A head's score less another's, as it stands in the record of fold "all".

    Attributes
    ----------
    head
        The other head.
    score
        The score that the protocol ranks by.
    difference
        Mean over test slides: exactly the difference of the two scores where both are defined on every slide.
    low, high
        Ends of its 95 % interval over patients; None where there is none (`intervals.patient_interval`).
    method
        "t" or "bootstrap"; None without an interval.
    n_patients
        Patients with a value from both heads.
    wins, losses
        Patients for whom the head is better, and worse.
    """

    head: str
    score: str
    difference: float | None
    low: float | None
    high: float | None
    method: str | None
    n_patients: int
    wins: int
    losses: int


def differences(
    whole: Record, others: Sequence[Record], folds: Mapping[Line, Sequence[ScoredFold]], *, score: str
) -> Record:
    """Return the fields `difference_from_ridge` and `difference_from_control` of one record of fold "all".

    Ridge is the default ridge on the same features; the best control is the one of highest score among those that
    read the same features or none. A field is None for ridge and the best control themselves, and where there is none.

    Parameters
    ----------
    whole
        The record.
    others
        All records of fold "all" of the comparison.
    folds
        Scores of each line.
    score
        The score that ranks under this protocol.
    """
    peers = [one for one in others if one["protocol"] == whole["protocol"] and _same_features(one, whole)]
    ridges = [one for one in peers if one["head"] == RIDGE and one["mode"] == DEFAULT]
    controls = [one for one in peers if one["control"] and not one["diagnostic"] and number(one, score) is not None]
    best = max(controls, key=lambda one: number(one, score) or 0.0, default=None)
    rivals = {"ridge": ridges[0] if len(ridges) == 1 else None, "control": best}
    return {
        f"difference_from_{name}": None if rival in (None, whole) else _difference(whole, rival, folds, score)
        for name, rival in rivals.items()
    }


def difference_in(record: Record, name: str) -> Difference | None:
    """Return a difference that `differences` put into a record: "ridge" or "control"; None where there is none."""
    found = record.get(f"difference_from_{name}")
    return Difference(**found) if isinstance(found, dict) else None


def _difference(whole: Record, rival: Record, folds: Mapping[Line, Sequence[ScoredFold]], score: str) -> Record:
    line, other = line_of_record(whole), line_of_record(rival)
    pair = paired_difference(folds[line], folds[other], score=score)
    interval = pair.interval
    return asdict(
        Difference(
            head=other[-1],
            score=score,
            difference=pair.difference,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            method=None if interval is None else interval.method,
            n_patients=pair.n_patients,
            wins=pair.wins,
            losses=pair.losses,
        )
    )


def _same_features(one: Record, other: Record) -> bool:
    """Whether two heads read the same features, or one of them none."""
    if one["backbone"] is None or other["backbone"] is None:
        return True
    return (one["backbone"], one["views"]) == (other["backbone"], other["views"])
